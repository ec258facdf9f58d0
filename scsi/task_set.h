// Which task of a logical unit may start when (SAM-5, 8): simple tasks in any order,
// an ordered one after all older and before all younger, one for the head of the queue
// at once.
//
// Pure. Knows tasks by their ids only. A task that is removed, finished or aborted,
// lets others start: next() names them, one by one.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <unordered_map>

#include "scsi/task.h"

namespace tidepool::scsi {

class TaskSet {
 public:
  // True: it may start now, and counts as started. False: it is dormant.
  bool add(TaskId id, TaskAttribute attribute) {
    if (attribute == TaskAttribute::head_of_queue) {
      start(id, false);
      return true;
    }
    const bool ordered = attribute == TaskAttribute::ordered;
    if (dormant_.empty() && may_start(ordered)) {
      start(id, ordered);
      return true;
    }
    dormant_.push_back({id, ordered});
    return false;
  }

  void remove(TaskId id) {
    if (const auto found = active_.find(id); found != active_.end()) {
      if (found->second) --ordered_active_;
      active_.erase(found);
      return;
    }
    for (auto entry = dormant_.begin(); entry != dormant_.end(); ++entry) {
      if (entry->id != id) continue;
      dormant_.erase(entry);
      return;
    }
  }

  // A dormant task whose turn has come; it counts as started.
  std::optional<TaskId> next() {
    if (dormant_.empty() || !may_start(dormant_.front().ordered)) return std::nullopt;
    const Dormant entry = dormant_.front();
    dormant_.pop_front();
    start(entry.id, entry.ordered);
    return entry.id;
  }

  bool empty() const { return active_.empty() && dormant_.empty(); }

 private:
  struct Dormant {
    TaskId id = 0;
    bool ordered = false;
  };
  bool may_start(bool ordered) const { return ordered ? active_.empty() : ordered_active_ == 0; }
  void start(TaskId id, bool ordered) {
    active_.emplace(id, ordered);
    if (ordered) ++ordered_active_;
  }

  std::unordered_map<TaskId, bool> active_;  // whether it is an ordered one
  std::deque<Dormant> dormant_;              // oldest first
  unsigned ordered_active_ = 0;
};

}  // namespace tidepool::scsi
