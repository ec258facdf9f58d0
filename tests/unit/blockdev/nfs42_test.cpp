// Holes on an NFS server: the calls of version 4.2 as bytes, and the way through them; and what is
// remembered of holes. Without a server.
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "blockdev/stores/known_holes.h"
#include "blockdev/stores/nfs42_session.h"
#include "tests/lib/nfs42_replies.h"

namespace tidepool::blockdev {
namespace {

using test::Nfs42Reply;
using What = Nfs42Session::Outcome::What;

std::string hex(std::span<const std::byte> bytes) {
  std::string out;
  for (const std::byte b : bytes) {
    constexpr char digits[] = "0123456789abcdef";
    out += digits[std::to_integer<unsigned>(b) >> 4];
    out += digits[std::to_integer<unsigned>(b) & 15];
  }
  return out;
}

TEST(Nfs42Codec, CallsAreWhatTheStandardSays) {
  EXPECT_EQ(hex(nfs42::exchange_id("abcde", 1)),
            "00000000"
            "00000002"
            "00000001"
            "0000002a"
            "0000000000000001"
            "00000005"
            "6162636465000000"
            "00010000"
            "00000000"
            "00000000");
  EXPECT_EQ(hex(nfs42::create_session({.id = 2, .sequence = 3})),
            "00000000"
            "00000002"
            "00000001"
            "0000002b"
            "0000000000000002"
            "00000003"
            "00000000"
            "00000000"
            "00001000"
            "00001000"
            "00001000"
            "00000008"
            "00000001"
            "00000000"
            "00000000"
            "00001000"
            "00001000"
            "00001000"
            "00000008"
            "00000001"
            "00000000"
            "40000000"
            "00000001"
            "00000000");
  const std::string handle = "xyz";
  EXPECT_EQ(hex(nfs42::deallocate({.session = Nfs42Reply::session(),
                                   .sequence = 9,
                                   .handle = handle,
                                   .offset = 0x1000,
                                   .length = 0x200})),
            "00000000"
            "00000002"
            "00000003"
            "00000035"
            "00000000000000000000000000000007"
            "00000009"
            "00000000"
            "00000000"
            "00000000"
            "00000016"
            "00000003"
            "78797a00"
            "0000003e"
            "00000000000000000000000000000000"
            "0000000000001000"
            "0000000000000200");
}

TEST(Nfs42Codec, AnswersAreTakenOnlyWhole) {
  const nfs42::Deallocation asked{.session = Nfs42Reply::session(), .sequence = 3};
  const auto id = nfs42::exchanged_id(Nfs42Reply::exchanged_id());
  ASSERT_TRUE(id);
  EXPECT_EQ(std::tuple(id->status, id->client.id, id->client.sequence),
            std::tuple(0U, Nfs42Reply::client, 5U));
  const auto session = nfs42::created_session(Nfs42Reply::created_session());
  ASSERT_TRUE(session);
  EXPECT_EQ(session->session, Nfs42Reply::session());
  const auto hole = nfs42::deallocated(Nfs42Reply::deallocated(3), asked);
  ASSERT_TRUE(hole);
  EXPECT_EQ(std::tuple(hole->status, hole->slot_used), std::tuple(0U, true));
  const auto cut_short = [](std::vector<std::byte> whole, auto&& taken) {
    for (std::size_t length = 0; length < whole.size(); ++length) {
      const std::vector<std::byte> part(whole.begin(),
                                        whole.begin() + static_cast<std::ptrdiff_t>(length));
      EXPECT_FALSE(taken(part)) << length;
    }
    whole.push_back(std::byte{});
    EXPECT_FALSE(taken(whole));
  };
  cut_short(Nfs42Reply::exchanged_id(), [](auto& r) { return nfs42::exchanged_id(r).has_value(); });
  cut_short(Nfs42Reply::created_session(),
            [](auto& r) { return nfs42::created_session(r).has_value(); });
  cut_short(Nfs42Reply::deallocated(3),
            [&](auto& r) { return nfs42::deallocated(r, asked).has_value(); });
}

TEST(Nfs42Codec, AnAnswerToAnotherCallIsNone) {
  nfs42::Deallocation asked{.session = Nfs42Reply::session(), .sequence = 4};
  EXPECT_FALSE(nfs42::deallocated(Nfs42Reply::deallocated(3), asked));
  asked.session[0] = std::byte{1};
  EXPECT_FALSE(nfs42::deallocated(Nfs42Reply::deallocated(4), asked));
  EXPECT_FALSE(nfs42::exchanged_id(Nfs42Reply::created_session()));
  // Success of fewer operations than were asked for.
  EXPECT_FALSE(nfs42::deallocated(Nfs42Reply(0, 0).bytes, asked));
}

class Nfs42SessionTest : public testing::Test {
 protected:
  std::string call() { return hex(session_.next_call(handle_, 4096, 8192)).substr(24, 8); }
  Nfs42Session::Outcome take(const std::vector<std::byte>& reply) { return session_.take(reply); }
  void begin() {
    EXPECT_EQ(call(), "0000002a");
    EXPECT_EQ(take(Nfs42Reply::exchanged_id()).what, What::again);
    EXPECT_EQ(call(), "0000002b");
    EXPECT_EQ(take(Nfs42Reply::created_session()).what, What::again);
  }
  const std::string handle_ = "file";
  Nfs42Session session_{"owner"};
};

TEST_F(Nfs42SessionTest, IsMadeOnceAndCountsItsCalls) {
  begin();
  for (std::uint32_t i = 1; i < 5; ++i) {
    EXPECT_EQ(call(), "00000035");
    EXPECT_EQ(take(Nfs42Reply::deallocated(i)).what, What::done);
  }
  // A refusal of DEALLOCATE itself uses the slot, one of SEQUENCE does not.
  EXPECT_EQ(call(), "00000035");
  const auto full = take(Nfs42Reply::deallocated(5, 28));
  EXPECT_EQ(std::tuple(full.what, full.status), std::tuple(What::refused, 28U));
  EXPECT_EQ(take(Nfs42Reply::refused(10008, 53)).status, 10008U);
  EXPECT_EQ(take(Nfs42Reply::deallocated(6)).what, What::done);
}

TEST_F(Nfs42SessionTest, IsMadeAnewWhenTheServerForgotIt) {
  begin();
  EXPECT_EQ(call(), "00000035");
  EXPECT_EQ(take(Nfs42Reply::refused(10052, 53)).what, What::again);  // BADSESSION
  begin();
  EXPECT_EQ(call(), "00000035");
  EXPECT_EQ(take(Nfs42Reply::deallocated(1)).what, What::done);
  EXPECT_EQ(take(Nfs42Reply::refused(10078, 53)).what, What::again);  // DEADSESSION
  EXPECT_EQ(call(), "0000002a");
  EXPECT_EQ(take(Nfs42Reply::exchanged_id()).what, What::again);
  EXPECT_EQ(take(Nfs42Reply::refused(10022, 43)).what, What::again);  // STALE_CLIENTID
  begin();
  EXPECT_EQ(take(Nfs42Reply::deallocated(1)).what, What::done);
}

TEST_F(Nfs42SessionTest, AServerWithoutItIsToldFromOneInTrouble) {
  EXPECT_EQ(take(Nfs42Reply::refused(10021)).what, What::not_offered);  // MINOR_VERS_MISMATCH
  EXPECT_EQ(take(Nfs42Reply::refused(10044, 10044)).what, What::not_offered);  // OP_ILLEGAL
  EXPECT_EQ(take(Nfs42Reply::refused(10013, 42)).what, What::refused);         // GRACE
  begin();
  EXPECT_EQ(take(Nfs42Reply::deallocated(1, 10004)).what, What::not_offered);  // NOTSUPP
}

TEST_F(Nfs42SessionTest, AServerThatAlwaysForgetsIsNotAskedForEver) {
  unsigned asked = 0;
  What what = What::again;
  while (what == What::again && ++asked < 100) {
    static_cast<void>(call());
    what = take(Nfs42Reply::refused(10052, 42)).what;
  }
  EXPECT_EQ(what, What::not_offered);
  asked = 0;
  for (what = What::again; what == What::again && ++asked < 100;) what = take({}).what;
  EXPECT_EQ(what, What::not_offered);
}

using Parts = std::vector<std::tuple<std::uint64_t, std::uint64_t, bool>>;

Parts parts_of(const KnownHoles& holes, std::uint64_t begin, std::uint64_t end) {
  Parts out;
  holes.each(begin, end, [&](auto from, auto to, bool hole) {
    out.emplace_back(from, to, hole);
    return true;
  });
  return out;
}

TEST(KnownHoles, AreWhatWasDiscardedAndNotWrittenSince) {
  KnownHoles holes;
  const int key = 0;
  holes.discarding(&key, 100, 200);
  EXPECT_EQ(parts_of(holes, 0, 300), (Parts{{0, 300, false}}));
  holes.discarded(&key, true);
  EXPECT_EQ(parts_of(holes, 0, 300), (Parts{{0, 100, false}, {100, 200, true}, {200, 300, false}}));
  holes.written(120, 130);
  EXPECT_EQ(parts_of(holes, 110, 140),
            (Parts{{110, 120, true}, {120, 130, false}, {130, 140, true}}));
  holes.discarding(&key, 120, 130);
  holes.discarded(&key, false);
  EXPECT_EQ(holes.size(), 2U);
  holes.discarding(&key, 120, 130);
  holes.discarded(&key, true);
  EXPECT_EQ(holes.size(), 1U);
  holes.written(0, 1000);
  EXPECT_TRUE(holes.empty());
}

TEST(KnownHoles, AWriteBesideADiscardWins) {
  KnownHoles holes;
  const int key = 0;
  holes.discarding(&key, 0, 100);
  holes.written(40, 60);  // ended while the discard is under way
  holes.discarded(&key, true);
  EXPECT_EQ(parts_of(holes, 0, 100), (Parts{{0, 40, true}, {40, 60, false}, {60, 100, true}}));
}

// Against a plain array: nothing is a hole that was written after it.
TEST(KnownHoles, AgreeWithAnArray) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 200; ++round) {
    KnownHoles holes;
    std::vector<bool> array(256);
    for (int step = 0; step < 100; ++step) {
      const std::uint64_t begin = random() % array.size();
      const std::uint64_t end = begin + 1 + random() % (array.size() - begin);
      const bool discard = random() % 2 == 0;
      if (discard) {
        holes.discarding(&step, begin, end);
        holes.discarded(&step, true);
      } else {
        holes.written(begin, end);
      }
      std::fill(array.begin() + static_cast<std::ptrdiff_t>(begin),
                array.begin() + static_cast<std::ptrdiff_t>(end), discard);
      std::vector<bool> told;
      holes.each(0, array.size(), [&](auto from, auto to, bool hole) {
        EXPECT_EQ(from, told.size());
        told.insert(told.end(), to - from, hole);
        return true;
      });
      ASSERT_EQ(told, array);
    }
  }
}

TEST(KnownHoles, StayBounded) {
  KnownHoles holes;
  const int key = 0;
  holes.discarding(&key, 0, std::uint64_t{1} << 40);
  holes.discarded(&key, true);
  for (std::uint64_t i = 0; i < KnownHoles::most + 100; ++i)
    holes.written(i * 8192, i * 8192 + 4096);
  EXPECT_LE(holes.size(), KnownHoles::most);
}

}  // namespace
}  // namespace tidepool::blockdev
