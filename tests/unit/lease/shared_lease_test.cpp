// Hosts that share a disk, in a directory of this host, with short terms.
#include "blockdev/lease/shared_lease.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <future>

namespace tidepool::blockdev::lease {
namespace {

using std::chrono::milliseconds;

class SharedLeases : public testing::Test {
 protected:
  SharedLeases() {
    std::string path = std::filesystem::temp_directory_path() / "tidepool-shared.XXXXXX";
    if (::mkdtemp(path.data()) == nullptr) std::abort();
    path_ = path;
  }
  ~SharedLeases() override { std::filesystem::remove_all(path_); }

  Lease::OpenDirectory directory() const {
    return [path = (path_ / "disk.lock").native()](milliseconds, int) {
      return local_directory(path);
    };
  }
  // So long that no busy machine makes a member late, but where it is to run out.
  static constexpr milliseconds usual{6000}, brief{1500};
  static LeaseOptions options(const char* host, milliseconds duration = usual) {
    return {.terms = {.duration = duration,
                      .margin = milliseconds(500),
                      .renew_every = milliseconds(80),
                      .retry_after = milliseconds(20)},
            .disk = "disk",
            .host = host};
  }
  Result<std::unique_ptr<SharedLease>> join(const char* host, milliseconds duration = usual) const {
    return SharedLease::join(
        directory(), options(host, duration),
        [](const std::optional<SharedState>& before) -> Result<std::vector<std::byte>> {
          return before ? before->payload : std::vector<std::byte>{std::byte{1}};
        },
        {});
  }
  std::unique_ptr<SharedLease> must_join(const char* host, milliseconds duration = usual) const {
    auto lease = join(host, duration);
    EXPECT_TRUE(lease) << lease.error().message;
    return std::move(*lease);
  }

  std::filesystem::path path_;
};

// The state as a member was told of it last; acknowledges at once unless told otherwise.
class Follower {
 public:
  explicit Follower(SharedLease& lease, bool acknowledges = true) : lease_(lease) {
    lease_.follow([this, acknowledges](const SharedState& state) {
      const std::lock_guard lock(mutex_);
      state_ = state;
      if (acknowledges) lease_.acknowledge(state.number);
    });
  }
  ~Follower() { lease_.follow(nullptr); }
  SharedState state() {
    const std::lock_guard lock(mutex_);
    return state_;
  }

 private:
  SharedLease& lease_;
  std::mutex mutex_;
  SharedState state_;
};

std::future<bool> append(SharedLease& lease, int value) {
  auto done = std::make_shared<std::promise<bool>>();
  lease.change(
      [value](SharedState& state, std::uint64_t) {
        state.payload.push_back(static_cast<std::byte>(value));
        return Sharing::Edited::changed;
      },
      [done](bool settled) { done->set_value(settled); });
  return done->get_future();
}

TEST_F(SharedLeases, AChangeIsDoneOnceAllFollowIt) {
  const auto a = must_join("alpha"), b = must_join("beta");
  Follower at_a(*a), at_b(*b);
  EXPECT_EQ(a->permit(), WritePermit::yes);
  EXPECT_EQ(b->permit(), WritePermit::yes);
  for (int i = 2; i < 12; ++i) {
    ASSERT_TRUE(append(i % 2 == 0 ? *a : *b, i).get());
    ASSERT_EQ(at_a.state().payload.size(), static_cast<std::size_t>(i));
    ASSERT_EQ(at_b.state().payload.size(), static_cast<std::size_t>(i));
  }
}

TEST_F(SharedLeases, AChangeWaitsForWhoHasNotDrained) {
  const auto a = must_join("alpha"), b = must_join("beta");
  Follower at_a(*a), at_b(*b, false);
  auto done = append(*a, 2);
  EXPECT_EQ(done.wait_for(std::chrono::seconds(2)), std::future_status::timeout);
  b->acknowledge(at_b.state().number);
  EXPECT_TRUE(done.get());
}

TEST_F(SharedLeases, NoChangeOfManyAtOnceIsLost) {
  const auto a = must_join("alpha"), b = must_join("beta"), c = must_join("gamma");
  Follower at_a(*a), at_b(*b), at_c(*c);
  std::vector<std::future<bool>> done;
  for (int i = 0; i < 20; ++i)
    for (SharedLease* const lease : {a.get(), b.get(), c.get()}) done.push_back(append(*lease, i));
  for (auto& one : done) ASSERT_TRUE(one.get());
  EXPECT_EQ(at_a.state().payload.size(), 61U);
}

TEST_F(SharedLeases, WhoEndsWithoutAWordIsFencedAndTheOthersGoOn) {
  const auto a = must_join("alpha", brief);
  auto b = must_join("beta", brief);
  Follower at_a(*a);
  b.reset();
  EXPECT_TRUE(append(*a, 2).get());
  while (at_a.state().members.size() > 1) std::this_thread::sleep_for(milliseconds(5));
  EXPECT_EQ(at_a.state().members[0].host, "alpha");
}

TEST_F(SharedLeases, WhoLeavesIsNotWaitedFor) {
  const auto a = must_join("alpha"), b = must_join("beta");
  Follower at_a(*a);
  b->leave();
  EXPECT_EQ(b->permit(), WritePermit::never);
  EXPECT_FALSE(append(*b, 2).get());
  EXPECT_TRUE(append(*a, 3).get());
  EXPECT_EQ(at_a.state().members.size(), 1U);
  a->leave();
  const auto whole = Lease::take(directory(), options("delta"));
  ASSERT_TRUE(whole) << whole.error().message;
  ASSERT_TRUE((*whole)->inherited());
  EXPECT_EQ((*whole)->inherited()->payload.back(), std::byte{3});
}

TEST_F(SharedLeases, WhoIsFencedIsOutForGood) {
  const auto a = must_join("alpha", brief), b = must_join("beta", brief);
  Follower at_a(*a), at_b(*b);
  a->change(
      [&](SharedState& state, std::uint64_t) {
        Member* const member = state.find(b->self());
        if (member == nullptr) return Sharing::Edited::later;  // alpha has not looked since
        member->fenced = true;
        return Sharing::Edited::changed;
      },
      [](bool) {});
  while (b->permit() != WritePermit::never) std::this_thread::sleep_for(milliseconds(5));
  EXPECT_FALSE(append(*b, 2).get());
  EXPECT_TRUE(append(*a, 3).get());
}

TEST_F(SharedLeases, AndASingleOwnerKeepEachOtherOut) {
  {
    const auto a = must_join("alpha"), b = must_join("beta");
    const auto whole = Lease::take(directory(), options("delta"));
    ASSERT_FALSE(whole);
    EXPECT_EQ(whole.error().kind, ErrorKind::busy);
    EXPECT_NE(whole.error().message.find("in use by 2 that share it (alpha, beta) since"),
              std::string::npos)
        << whole.error().message;
    a->leave();
    b->leave();
  }
  const auto whole = Lease::take(directory(), options("delta"));
  ASSERT_TRUE(whole) << whole.error().message;
  const auto late = join("alpha");
  ASSERT_FALSE(late);
  EXPECT_NE(late.error().message.find("in use by delta since"), std::string::npos)
      << late.error().message;
  (*whole)->release();
}

TEST_F(SharedLeases, LeaveAStateThatIsThereUntilItIsDropped) {
  must_join("alpha")->leave();
  for (int i = 0; i < 2; ++i) {
    const auto whole = Lease::take(directory(), options("delta"));
    ASSERT_TRUE(whole) << whole.error().message;
    EXPECT_TRUE((*whole)->inherited());
    if (i == 1) {
      EXPECT_TRUE((*whole)->drop_inheritance());
    }
    (*whole)->release();
  }
  const auto whole = Lease::take(directory(), options("delta"));
  ASSERT_TRUE(whole) << whole.error().message;
  EXPECT_FALSE((*whole)->inherited());
}

TEST_F(SharedLeases, OfASingleOwnerThatIsGoneAreTakenOver) {
  { const auto whole = Lease::take(directory(), options("delta", brief)); }
  const auto a = must_join("alpha", brief);
  EXPECT_EQ(a->permit(), WritePermit::yes);
}

}  // namespace
}  // namespace tidepool::blockdev::lease
