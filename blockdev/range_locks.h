// Which block ranges of a disk have writers in flight.
//
// In-place writes share a range; whatever changes the map there, or rewrites a
// block it does not fully cover, has it alone. A request that must wait is queued
// and started in its turn. Reads take no lock.
//
// Pure; guarded by the lock of the disk's owner. Scans are linear: the lists hold no more than
// a queue depth.
#pragma once

#include <cstdint>

namespace tidepool::blockdev {

struct RangeLock {
  std::uint64_t begin = 0, end = 0;  // blocks
  bool exclusive = false;
  // Called (under the owner's lock) when a waiting lock has been granted.
  void (*granted)(RangeLock& self) = nullptr;

  RangeLock* previous = nullptr;
  RangeLock* next = nullptr;
};

class RangeLocks {
 public:
  // True: held now. False: queued; `granted` will be called.
  bool acquire(RangeLock& lock) {
    if (conflicts(held_, lock) || conflicts(waiting_, lock)) {
      waiting_.append(lock);
      return false;
    }
    held_.append(lock);
    return true;
  }

  void release(RangeLock& lock) {
    held_.remove(lock);
    if (!waiting_.first) return;
    List still_waiting;
    RangeLock* next = nullptr;
    for (RangeLock* waiter = waiting_.first; waiter; waiter = next) {
      next = waiter->next;
      if (conflicts(held_, *waiter) || conflicts(still_waiting, *waiter)) {
        still_waiting.append(*waiter);
      } else {
        held_.append(*waiter);
        waiter->granted(*waiter);
      }
    }
    waiting_ = still_waiting;
  }

  bool idle() const { return !held_.first && !waiting_.first; }

 private:
  struct List {
    RangeLock* first = nullptr;
    RangeLock* last = nullptr;
    void append(RangeLock& lock) {
      lock.previous = last;
      lock.next = nullptr;
      (last ? last->next : first) = &lock;
      last = &lock;
    }
    void remove(RangeLock& lock) {
      (lock.previous ? lock.previous->next : first) = lock.next;
      (lock.next ? lock.next->previous : last) = lock.previous;
    }
  };
  static bool conflicts(const List& list, const RangeLock& lock) {
    for (const RangeLock* other = list.first; other; other = other->next)
      if (other->begin < lock.end && lock.begin < other->end &&
          (other->exclusive || lock.exclusive))
        return true;
    return false;
  }

  List held_, waiting_;
};

}  // namespace tidepool::blockdev
