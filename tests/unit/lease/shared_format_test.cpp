// The claim and the beats of hosts that share a disk, as bytes.
#include "blockdev/lease/shared_format.h"

#include <gtest/gtest.h>

#include "blockdev/lease/lease_format.h"

namespace tidepool::blockdev::lease {
namespace {

using std::chrono::milliseconds;

SharedState sample() {
  SharedState state{.number = 9, .duration = milliseconds(15'000), .since_seconds = 1'700'000'000};
  state.members = {{.id = new_uuid(), .serial = 3, .host = "alpha"},
                   {.id = new_uuid(), .serial = 4, .fenced = true, .host = "beta"}};
  state.holds = {{.member = state.members[0].id, .id = 7, .begin = 0, .end = 4096},
                 {.member = state.members[0].id, .id = 8, .begin = 512, .end = 1024},
                 {.member = state.members[1].id, .id = 1, .begin = 4096, .end = 8192}};
  state.payload.assign(100, std::byte{0x5a});
  return state;
}

TEST(SharedState, SurvivesItsEncoding) {
  for (const SharedState& state : {sample(), SharedState{.number = 1, .duration = milliseconds(1)}})
    EXPECT_EQ(decode_shared(encode(state)), state);
  SharedState named = sample();
  named.members[0].host.assign(1000, 'h');
  ASSERT_TRUE(decode_shared(encode(named)));
  EXPECT_EQ(decode_shared(encode(named))->members[0].host.size(), Member::host_limit);
}

TEST(SharedState, EveryDamageIsFound) {
  const auto encoded = encode(sample());
  for (std::size_t bit = 0; bit < encoded.size() * 8; ++bit) {
    auto damaged = encoded;
    damaged[bit / 8] ^= std::byte(1U << bit % 8);
    EXPECT_FALSE(decode_shared(damaged)) << bit;
  }
  for (std::size_t length = 0; length < encoded.size(); ++length)
    EXPECT_FALSE(decode_shared(std::span(encoded).first(length))) << length;
}

TEST(SharedState, WhatCannotBeIsRefused) {
  const auto refused = [](auto&& change) {
    SharedState state = sample();
    change(state);
    return !decode_shared(encode(state));
  };
  EXPECT_TRUE(refused([](SharedState& s) { s.number = 0; }));
  EXPECT_TRUE(refused([](SharedState& s) { s.duration = milliseconds(0); }));
  EXPECT_TRUE(refused([](SharedState& s) { s.duration = std::chrono::hours(25); }));
  EXPECT_TRUE(refused([](SharedState& s) { s.members[1].id = s.members[0].id; }));
  EXPECT_TRUE(refused([](SharedState& s) { s.members.resize(SharedState::most_members + 1); }));
  EXPECT_TRUE(refused([](SharedState& s) { s.holds[0].end = 0; }));
  EXPECT_TRUE(refused([](SharedState& s) { s.holds[0].member = new_uuid(); }));
  EXPECT_TRUE(refused([](SharedState& s) { s.holds[2].begin = 4095; }));
  EXPECT_TRUE(refused([](SharedState& s) { s.payload.resize(SharedState::most_payload + 1); }));
  EXPECT_FALSE(refused([](SharedState&) {}));
}

TEST(SharedState, IsNoClaimOfASingleOwnerNorTheOtherWayRound) {
  SharedState state = sample();
  state.payload.resize(4096);
  EXPECT_FALSE(decode_claim(encode(state)));
  EXPECT_FALSE(decode_shared(encode(Claim{.number = 9, .duration = milliseconds(1)})));
}

TEST(SharedState, WhoLeavesTakesItsHoldsAlong) {
  SharedState state = sample();
  state.remove(state.members[0].id);
  EXPECT_EQ(state.members.size(), 1U);
  ASSERT_EQ(state.holds.size(), 1U);
  EXPECT_EQ(state.holds[0].member, state.members[0].id);
}

TEST(Beat, SurvivesItsEncodingAndNoDamage) {
  const Beat beat{
      .member = new_uuid(), .count = 5, .acknowledged = 9, .duration = milliseconds(15'000)};
  const auto encoded = encode(beat);
  EXPECT_EQ(decode_beat(encoded), beat);
  for (std::size_t bit = 0; bit < encoded.size() * 8; ++bit) {
    auto damaged = encoded;
    damaged[bit / 8] ^= std::byte(1U << bit % 8);
    EXPECT_FALSE(decode_beat(damaged)) << bit;
  }
  EXPECT_FALSE(decode_beat(std::span(encoded).first(63)));
  EXPECT_FALSE(decode_beat({}));
}

TEST(Beat, HasANameThatIsNoClaims) {
  const std::string name = member_name(new_uuid());
  EXPECT_TRUE(is_member_name(name));
  EXPECT_EQ(claim_number(name), 0U);
  EXPECT_FALSE(is_member_name(claim_name(7)));
  EXPECT_FALSE(is_member_name("member."));
}

}  // namespace
}  // namespace tidepool::blockdev::lease
