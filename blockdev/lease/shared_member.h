// One of the hosts that share a disk, as it sees the others: the rules of shared_format.md
// without I/O and without a clock of its own.
//
//   joining ── my entry is in the highest claim ──> active ── it is not any more ──> lost
//
// The state is the highest claim of the lock directory. A change is the next claim, made by
// exclusive creation: of several that try, one does, the others look and try again. It is
// settled when every member has acknowledged it, or cannot write any more.
//
// Time as in lease_state.h. Limit: as there, the margin bounds what is on its way.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "blockdev/lease/lease_state.h"
#include "blockdev/lease/shared_format.h"

namespace tidepool::blockdev::lease {

// Of the highest claim and the members' files.
struct SharedSight {
  std::uint64_t number = 0;                      // 0: no claim
  std::optional<SharedState> state;              // none: a claim of a single owner
  std::map<Uuid, std::vector<std::byte>> beats;  // of all members of the state, but mine
};

class SharedMember {
 public:
  // For tests that must go red.
  struct Sabotage {
    bool no_self_fencing = false;
    bool no_acknowledgements = false;  // a change is settled once it is made
    bool no_second_look = false;       // who was to go is gone at once
    bool no_look_after_creation = false;
  };
  enum class Phase : std::uint8_t { joining, active, lost };
  enum class Do : std::uint8_t {
    beat,    // write beat() to my file, which is made if is_first_beat(); then beaten()
    look,    // then looked()
    create,  // proposal(), exclusively; then created()
    nothing,
  };
  struct Step {
    Do what = Do::nothing;
    Time at{0};  // not before
  };

  // `fast`, `slow`: how often to look while a change is under way, and else.
  SharedMember(const LeaseTerms& terms, Time fast, Time slow, const Member& self,
               const Sabotage& sabotage);

  Step next() const;
  Beat beat() const;
  bool is_first_beat() const { return count_ == 0; }
  const SharedState& proposal() const { return *proposal_; }

  // What came of a step: when it was begun, and when it had ended.
  void beaten(Time began, Time ended);
  void looked(Time began, Time ended, SharedSight sight);
  void created(Time ended, LeaseState::Creation how);
  void failed(Time ended);  // any of them

  Phase phase() const { return phase_; }
  bool may_write(Time now) const {
    return phase_ == Phase::active && (now < valid_until_ || sabotage_.no_self_fencing);
  }
  Time valid_until() const { return valid_until_; }  // while active

  // The highest claim that was seen; none before the first look, and when lost.
  const std::optional<SharedState>& state() const { return state_; }
  const Uuid& id() const { return self_.id; }
  // Nothing that was begun under an older claim is under way any more.
  void acknowledge(std::uint64_t number);
  // The claim that all follow who may write, and therefore all before it.
  std::uint64_t settled() const;

  // Changes. What housekeeping there is to be done is in the draft; `worth` says whether there is
  // any. None: not now.
  struct Draft {
    SharedState state;
    bool worth = false;
  };
  std::optional<Draft> draft() const;
  void propose(SharedState state);  // a draft, changed
  // What became of the last proposal: nothing yet, or whether it is in the state.
  std::optional<bool> outcome() const { return outcome_; }
  void hurry();  // somebody waits for what others do

 private:
  struct Peer {
    std::vector<std::byte> bytes;
    Time since{0};         // when a look that found them first had ended
    Time last_look{0};     // the beginning of the last look
    Time fenced_seen{-1};  // when a look that found it to go had ended; -1: it is not
    std::uint64_t acknowledged = 0;
    Time lasts{0};
  };
  bool silent(const Peer& peer) const;
  bool gone(const Member& member) const;
  void resolve_proposal();
  void adopt(SharedState state, Time ended);

  const LeaseTerms terms_;
  const Time fast_, slow_;
  const Sabotage sabotage_;
  Member self_;

  Phase phase_ = Phase::joining;
  std::uint64_t count_ = 0;  // beats begun
  std::uint64_t acknowledged_ = 0, written_acknowledgement_ = 0;
  Time next_beat_{0}, next_look_{0}, last_look_{0}, busy_until_{0}, retry_at_{0};
  bool hurried_ = false;
  std::optional<Time> beat_began_;  // written, not yet followed by a look
  Time valid_until_{0};
  std::optional<SharedState> state_;
  std::map<Uuid, Peer> peers_;

  std::optional<SharedState> proposal_;
  Time next_create_{0};
  bool looks_first_ = false;  // before it is tried again
  std::optional<bool> outcome_;
};

}  // namespace tidepool::blockdev::lease
