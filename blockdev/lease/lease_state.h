// Who may write, as one contender sees it: the rules of the lease without I/O and without a
// clock of its own (lease_format.md has them in words).
//
//   looking ── nobody, or released ──────────────────> claiming ── it is mine ──> waiting
//      ^  └─ unchanged for duration + margin ────────────^  │                        │
//      └───────────────── somebody was faster ──────────────┘      predecessor's time is over
//                                                                                    v
//                                        lost <── a higher claim is there ──────── holding
//
// Time is the contender's own: of a clock that never goes backwards and does not stop when
// the machine sleeps. Clocks of two hosts share nothing but their pace, to within
// margin / duration.
//
// Limit: what was found valid is valid when it arrives only if it is no longer on its way
// than the margin; see lease_format.md.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "blockdev/lease/lease_format.h"

namespace tidepool::blockdev::lease {

using Time = std::chrono::nanoseconds;  // since any beginning

struct LeaseTerms {
  std::chrono::milliseconds duration{15'000};  // a renewal is valid so long from its start
  std::chrono::milliseconds margin{10'000};    // see above
  std::chrono::milliseconds renew_every{3'000};
  std::chrono::milliseconds retry_after{500};  // what failed
};

// What there is in the directory: the highest claim.
struct Sight {
  std::uint64_t number = 0;  // 0: none
  std::vector<std::byte> content;
};

// All that follows from one choice.
constexpr LeaseTerms terms_of(std::chrono::milliseconds duration) {
  return {.duration = duration,
          .margin = duration * 2 / 3,
          .renew_every = duration / 5,
          .retry_after = duration / 30};
}
// How long a server may leave unacknowledged what it was sent under a lease: the other half
// of the margin is for what else is slow.
constexpr std::chrono::milliseconds unacknowledged_of(const LeaseTerms& terms) {
  return terms.margin / 2;
}

class LeaseState {
 public:
  // For tests that must go red.
  struct Sabotage {
    bool no_wait_after_claim = false;
    bool no_look_after_renewal = false;
    bool no_self_fencing = false;
  };

  enum class Phase : std::uint8_t { looking, waiting, holding, lost };
  enum class Do : std::uint8_t {
    look,    // then looked()
    create,  // claim(), exclusively; then created()
    renew,   // overwrite claim(), then look; then renewed()
    nothing,
  };
  struct Step {
    Do what = Do::nothing;
    Time at{0};  // not before
  };

  // `host` is for people; `since_seconds` as Claim has it.
  LeaseState(const LeaseTerms& terms, std::string host, std::int64_t since_seconds,
             const Sabotage& sabotage);
  LeaseState(const LeaseTerms& terms, std::string host, std::int64_t since_seconds)
      : LeaseState(terms, std::move(host), since_seconds, Sabotage()) {}

  Step next() const { return next_; }
  const Claim& claim() const { return claim_; }  // what create and renew write

  // What came of a step: when it was begun, and when it had ended.
  void looked(Time began, Time ended, const Sight& sight);
  enum class Creation : std::uint8_t { made, exists, unknown };
  void created(Time ended, Creation how);
  void renewed(Time began, Time ended, const Sight& sight);
  void failed(Time ended);  // any of them

  Phase phase() const { return phase_; }
  // Whether a released claim is true: what I was to wait for is over.
  bool may_release() const { return phase_ == Phase::holding; }
  // While holding: writes may be sent before this.
  Time valid_until() const { return valid_until_; }
  bool may_write(Time now) const {
    return phase_ == Phase::holding && (now < valid_until_ || sabotage_.no_self_fencing);
  }
  // Who has it, once its value was seen to move: for who does not want to wait.
  const std::optional<Claim>& rival() const { return rival_; }
  bool rival_lives() const { return rival_lives_; }

 private:
  void claim_next(std::uint64_t after, Time predecessor_lasts);

  const LeaseTerms terms_;
  const Sabotage sabotage_;
  Claim claim_;
  Phase phase_ = Phase::looking;
  Step next_{Do::look, Time(0)};

  // Looking.
  Sight seen_;
  Time seen_since_{0};
  std::optional<Claim> rival_;
  bool rival_lives_ = false;

  Time predecessor_lasts_{0};  // from the moment when my claim was there
  Time not_before_{0};         // may I write
  Time valid_until_{0};
};

}  // namespace tidepool::blockdev::lease
