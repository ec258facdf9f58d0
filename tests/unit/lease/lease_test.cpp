// Claims as bytes and names; a lease in a directory of this host, with short terms.
#include "blockdev/lease/lease.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <thread>

namespace tidepool::blockdev::lease {
namespace {

using std::chrono::milliseconds;

Claim sample() {
  return {.owner = new_uuid(),
          .number = 7,
          .beat = 3,
          .state = ClaimState::held,
          .duration = milliseconds(15'000),
          .since_seconds = 1'700'000'000,
          .host = "somewhere"};
}

TEST(Claim, SurvivesItsEncoding) {
  for (const auto state : {ClaimState::held, ClaimState::released}) {
    Claim claim = sample();
    claim.state = state;
    EXPECT_EQ(decode_claim(encode(claim)), claim);
  }
  Claim claim = sample();
  claim.host.assign(1000, 'h');
  ASSERT_TRUE(decode_claim(encode(claim)));
  EXPECT_EQ(decode_claim(encode(claim))->host.size(), Claim::host_limit);
}

TEST(Claim, EveryDamageIsFound) {
  const auto encoded = encode(sample());
  for (std::size_t bit = 0; bit < encoded.size() * 8; ++bit) {
    auto damaged = encoded;
    damaged[bit / 8] ^= std::byte(1U << bit % 8);
    EXPECT_FALSE(decode_claim(damaged)) << bit;
  }
  for (std::size_t length = 0; length < encoded.size(); ++length)
    EXPECT_FALSE(decode_claim(std::span(encoded).first(length))) << length;
}

TEST(Claim, HasANameThatSaysItsNumber) {
  EXPECT_EQ(claim_name(7), "claim.00000000000000000007");
  for (const std::uint64_t number : {std::uint64_t{1}, std::uint64_t{7}, ~std::uint64_t{0}})
    EXPECT_EQ(claim_number(claim_name(number)), number);
  for (const char* name : {"", "claim.", "claim.7", "claim.0000000000000000000x", "other",
                           "claim.00000000000000000000", "claim.99999999999999999999",
                           "claim.000000000000000000070", "claim.-0000000000000000007"})
    EXPECT_EQ(claim_number(name), 0U) << name;
}

class LeaseInDirectory : public testing::Test {
 protected:
  LeaseInDirectory() {
    std::string path = std::filesystem::temp_directory_path() / "tidepool-lease.XXXXXX";
    if (::mkdtemp(path.data()) == nullptr) std::abort();
    path_ = path;
  }
  ~LeaseInDirectory() override { std::filesystem::remove_all(path_); }

  Lease::OpenDirectory directory() const {
    return [path = (path_ / "disk.lock").native()](milliseconds, int) {
      return local_directory(path);
    };
  }
  static LeaseOptions options(const char* host) {
    return {.terms = {.duration = milliseconds(600),
                      .margin = milliseconds(200),
                      .renew_every = milliseconds(50),
                      .retry_after = milliseconds(20)},
            .disk = "disk",
            .host = host};
  }

  std::filesystem::path path_;
};

TEST_F(LeaseInDirectory, IsTakenAtOnceAndRefusedToOthersByName) {
  auto first = Lease::take(directory(), options("alpha"));
  ASSERT_TRUE(first) << first.error().message;
  EXPECT_EQ((*first)->token(), 1U);
  EXPECT_EQ((*first)->permit(), WritePermit::yes);
  auto second = Lease::take(directory(), options("beta"));
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().kind, ErrorKind::busy);
  EXPECT_NE(second.error().message.find("in use by alpha since"), std::string::npos)
      << second.error().message;
}

TEST_F(LeaseInDirectory, IsFreeOnceReleased) {
  auto first = Lease::take(directory(), options("alpha"));
  ASSERT_TRUE(first);
  (*first)->release();
  EXPECT_EQ((*first)->permit(), WritePermit::never);
  auto second = Lease::take(directory(), options("beta"));
  ASSERT_TRUE(second) << second.error().message;
  EXPECT_EQ((*second)->token(), 2U);
}

TEST_F(LeaseInDirectory, IsTakenOverFromWhoDoesNotRenewIt) {
  auto first = Lease::take(directory(), options("alpha"));
  ASSERT_TRUE(first);
  first->reset();  // it ends without a word
  auto second = Lease::take(directory(), options("beta"));
  ASSERT_TRUE(second) << second.error().message;
  EXPECT_EQ((*second)->token(), 2U);
  EXPECT_EQ((*second)->permit(), WritePermit::yes);
}

TEST_F(LeaseInDirectory, IsOverOnceAHigherClaimIsThere) {
  auto first = Lease::take(directory(), options("alpha"));
  ASSERT_TRUE(first);
  Claim claim = sample();
  claim.number = 2;
  ASSERT_TRUE(directory()(milliseconds(0), -1)->create(claim_name(2), encode(claim)));
  while ((*first)->permit() != WritePermit::never) std::this_thread::sleep_for(milliseconds(5));
}

TEST_F(LeaseInDirectory, StopsWritingWhileItCannotBeRenewed) {
  auto first = Lease::take(directory(), options("alpha"));
  ASSERT_TRUE(first);
  const auto lock = path_ / "disk.lock", away = path_ / "away";
  std::filesystem::rename(lock, away);
  while ((*first)->permit() == WritePermit::yes) std::this_thread::sleep_for(milliseconds(5));
  std::filesystem::rename(away, lock);
  while ((*first)->permit() != WritePermit::yes) std::this_thread::sleep_for(milliseconds(5));
  EXPECT_EQ((*first)->token(), 1U);
}

}  // namespace
}  // namespace tidepool::blockdev::lease
