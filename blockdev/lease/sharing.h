// What the user of a shared disk sees of the hosts that share it: a state that all of them
// follow, and changes of it. A seam: tests have their own.
#pragma once

#include <cstdint>
#include <functional>

#include "base/uuid.h"
#include "blockdev/lease/shared_format.h"
#include "blockdev/stores/remote_options.h"

namespace tidepool::blockdev::lease {

class Sharing {
 public:
  enum class Edited : std::uint8_t {
    changed,
    unchanged,  // nothing is to be changed: it is done
    later,      // not in this state: to be tried in the next
  };
  // Of the newest state, which it may be given again, and then changes anew. `settled`: the claim
  // that all members follow. On a thread of the sharing's.
  using Edit = std::function<Edited(SharedState& state, std::uint64_t settled)>;
  // Once no member follows an older state; false: never, as this member is out. On a thread
  // of the sharing's.
  using Done = std::function<void(bool settled)>;
  // Each new state, or, of several at once, the newest. On a thread of the sharing's.
  using Follow = std::function<void(const SharedState& state)>;

  virtual ~Sharing() = default;
  // All on any thread.
  virtual const Uuid& self() const = 0;
  virtual WritePermit permit() const = 0;
  virtual void change(Edit edit, Done done) = 0;
  // The state so far comes at once; null: nobody follows any more, and no call is under way.
  virtual void follow(Follow follow) = 0;
  // Nothing that was begun under an older claim is under way any more.
  virtual void acknowledge(std::uint64_t number) = 0;
};

}  // namespace tidepool::blockdev::lease
