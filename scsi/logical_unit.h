// A logical unit: a SCSI disk over a BlockStore.
//
// A task goes through it in fixed order: its turn in the task set, unit attention, CDB,
// reservations, medium, its data, its handler. Handlers (handlers.h) use what the second
// half of the class offers; steps with the store continue by a Step.
//
// The pending list knows each task by an id that is never used again. Abort and reset take
// tasks off it: their owner is told at once, and what the store answers later is dropped. But
// the ranges that such a task was changing stay taken until the store is done with it, so that
// no newer write to the same place can be overtaken.
//
// What a store or a file can only do while its caller waits is done by a helper's thread, and
// the task continues when that is over.
//
// Limits: belongs to one event loop; nothing here is thread-safe. A write waits for
// overlapping reads and writes, a read for overlapping writes.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/loop_thread.h"
#include "blockdev/block_store.h"
#include "blockdev/lease/sharing.h"
#include "blockdev/range_locks.h"
#include "scsi/command_table.h"
#include "scsi/inquiry.h"
#include "scsi/mode_pages.h"
#include "scsi/persistent_reservations.h"
#include "scsi/reservation_file.h"
#include "scsi/sanitize.h"
#include "scsi/shared_part.h"
#include "scsi/task.h"
#include "scsi/task_set.h"

namespace tidepool::scsi {

struct LogicalUnitOptions {
  Identity identity;
  std::uint32_t block_size = 512;            // bytes: 512 or 4096
  std::uint32_t physical_block_size = 4096;  // bytes; block_size or a power-of-two multiple
  bool read_only = false;
  // Other hosts serve the unit, too; null: none. Outlives the unit.
  blockdev::lease::Sharing* sharing = nullptr;
  // For tests that must go red: an aborted task's range is free at once.
  bool forget_aborted = false;
};

// The logical units beside this one, for REPORT LUNS.
class LunDirectory {
 public:
  virtual ~LunDirectory() = default;
  virtual std::vector<std::uint64_t> luns() const = 0;  // each as its 8 bytes on the wire
};

struct CopyResult {
  bool failed = false;
  std::uint16_t segments = 0;
  std::uint64_t bytes = 0;
};

struct Nexus {
  PortId port;
  std::deque<std::uint16_t> attentions;  // oldest first
  bool prevents_removal = false;
  std::unordered_map<std::uint8_t, CopyResult> copies;  // by list identifier
};

class LogicalUnit {
 public:
  // Loop, helper and directory outlive the unit. Without a storage, and unshared, no reservation
  // persists through power loss, and initiators are told so.
  static Result<std::unique_ptr<LogicalUnit>> open(EventLoop& loop, LoopThread& helper,
                                                   const LunDirectory& directory,
                                                   std::shared_ptr<blockdev::BlockStore> store,
                                                   std::unique_ptr<ReservationStorage> storage,
                                                   const LogicalUnitOptions& options);
  ~LogicalUnit();  // idle() before

  // For transports.

  void nexus_added(NexusId id, const PortId& port);
  void nexus_lost(NexusId id);  // its tasks are aborted
  // The id that the next task to be submitted gets.
  TaskId next_id() const { return last_id_ + 1; }
  // May finish the task, or others, before it returns.
  void submit(std::unique_ptr<Task> task);
  void data_arrived(TaskId id);
  // False: there is no such task, it has been finished.
  bool abort(TaskId id);
  void abort_tasks_of(NexusId nexus);
  void clear_tasks(NexusId by);         // CLEAR TASK SET
  void reset(std::uint16_t attention);  // what every nexus is told
  void stop() { sanitize_->stop(); }
  // Nothing is with the store or the helper.
  bool idle() const {
    return tasks_.empty() && ending_.empty() && !sanitize_->running() && saving_ == nullptr &&
           changing_ == 0;
  }

  // For handlers.

  const Identity& identity() const { return identity_; }
  const Limits& limits() const { return limits_; }
  bool has(const Command& command) const {
    return (!(command.needs & Need::thin) || limits_.thin) &&
           (!(command.needs & Need::alone) || sharing_ == nullptr);
  }
  const LunDirectory& directory() const { return directory_; }
  blockdev::BlockStore& store() { return *store_; }
  std::uint32_t block_size() const { return limits_.block_size; }
  std::uint64_t blocks() const { return store_->geometry().size / limits_.block_size; }
  bool read_only() const { return read_only_; }
  ModeContext mode_context() const;
  Nexus& nexus_of(const Task& task) { return nexuses_.at(task.nexus); }
  Sanitize& sanitize() { return *sanitize_; }

  const ModeParameters& mode() const { return mode_; }
  void change_mode(const Task& by, const ModeParameters& mode);

  bool loaded() const { return loaded_; }
  bool removal_prevented() const;
  void set_loaded(const Task& by, bool loaded);

  const PersistentReservations& reservations() const { return reservations_; }
  bool reservations_can_persist() const { return storage_ != nullptr || sharing_ != nullptr; }
  // Not while other hosts may have changed them.
  bool reservations_known() const {
    return sharing_ == nullptr || sharing_->permit() == blockdev::WritePermit::yes;
  }
  // Makes the change stable where it has to be, and tells those whom it concerns. One change is
  // made at a time, and none is taken back by an abort once it is being made stable.
  void change_reservations(Task& task, const ReservationRequest& request);
  NexusId legacy_holder() const { return legacy_holder_; }  // RESERVE; 0: none
  void set_legacy_holder(NexusId nexus) { legacy_holder_ = nexus; }
  bool conflicts(const Task& task, Access access) const;

  // Null: it has ended.
  Task* find(TaskId id) {
    const auto found = tasks_.find(id);
    return found == tasks_.end() ? nullptr : found->second.get();
  }
  // Ends the task; it must not be touched afterwards.
  void finish(Task& task, Status status = Status::good);
  void fail(Task& task, const Sense& sense);
  // Ends the task when error is not 0: true then.
  bool failed(Task& task, int error);
  // GOOD with the data, cut to the allocation length.
  void reply(Task& task, std::span<const std::byte> data, std::uint64_t allocation_length);

  // The blocks [first, first + count) are the task's until it ends: exclusive for what
  // changes them. Once a task.
  void with_range(Task& task, const BlockRange& range, bool exclusive, Step next);
  // What with_range() gave is the task's at the other hosts that serve the unit, too.
  void with_hold(Task& task, Step next);
  // Of the store. `data` stays valid until the next step.
  void read(Task& task, std::uint64_t offset, std::span<std::byte> data, Step next);
  void write(Task& task, std::uint64_t offset, std::span<const std::byte> data, bool stable,
             Step next);
  void discard(Task& task, std::uint64_t offset, std::uint64_t length, bool stable, Step next);
  void zero(Task& task, std::uint64_t offset, std::uint64_t length, bool stable, Step next);
  void flush(Task& task, Step next);
  // By the helper, on its thread: `work` gives 0 or an errno, and of the unit and the task it
  // touches only what it has been given and the task's scratch.
  void do_aside(Task& task, std::function<int()> work, Step next);
  // Whether a write has to be stable when it is answered.
  bool must_be_stable(bool force_unit_access) const {
    return force_unit_access || !mode_.write_cache;
  }

  void attention_for_others(NexusId except, std::uint16_t code);

 private:
  // A change of the reservations that is being made stable.
  struct Saving {
    TaskId task = 0;
    PersistentReservations changed;
    ReservationOutcome outcome;
    Result<> saved;
  };
  struct WaitingChange {
    TaskId task = 0;
    ReservationRequest request;
  };

  LogicalUnit(EventLoop& loop, LoopThread& helper, const LunDirectory& directory,
              std::shared_ptr<blockdev::BlockStore> store,
              std::unique_ptr<ReservationStorage> storage, const LogicalUnitOptions& options);

  void begin(Task& task);
  // What keeps the task from being carried out; true: it has been ended.
  bool refused(Task& task);
  bool refused_by_state(Task& task);
  void issue(Task& task, Step next);
  void store_answered(Task& task, int error);
  void drop(Task& task);
  void settle();
  std::unique_ptr<Task> take(Task& task);
  void reservations_saved();
  void apply_reservations(TaskId task, PersistentReservations changed,
                          const ReservationOutcome& outcome);
  void add_attention(Nexus& nexus, std::uint16_t code);
  void attention_for_port(const PortId& port, std::uint16_t code);
  void abort_where(auto&& meant);
  void let_go(Task& task);
  void reset_here(std::uint16_t attention);
  void clear_here(NexusId by);

  // shared_unit.cpp
  Result<> begin_sharing();
  void follow(const blockdev::lease::SharedState& state);
  void take_effect(const SharedEffect& effect);
  bool is_held(const Task& task) const;
  bool holds_off(Task& task, Step next);
  void ended_at_store(Task& task);
  void share(blockdev::lease::Sharing::Edit edit, std::function<void(bool settled)> done);
  void share_reservations(Task& task, const ReservationRequest& request);
  void share_effect(SharedEffect effect);
  void release_hold(Task& task);

  // Constant after construction.
  EventLoop& loop_;
  LoopThread& helper_;
  const LunDirectory& directory_;
  const std::shared_ptr<blockdev::BlockStore> store_;
  const std::unique_ptr<ReservationStorage> storage_;
  const Identity identity_;
  Limits limits_;
  const bool read_only_;
  const bool forget_aborted_;
  blockdev::lease::Sharing* const sharing_;
  std::unique_ptr<blockdev::IoChannel> channel_;

  ModeParameters mode_;
  PersistentReservations reservations_;
  std::unique_ptr<Saving> saving_;
  std::deque<WaitingChange> waiting_changes_;  // for saving_, oldest first
  NexusId legacy_holder_ = 0;
  bool loaded_ = true;
  std::unordered_map<NexusId, Nexus> nexuses_;
  std::set<PortId> known_ports_;  // seen since the start
  std::unique_ptr<Sanitize> sanitize_;

  TaskId last_id_ = 0;
  std::unordered_map<TaskId, std::unique_ptr<Task>> tasks_;   // the pending list
  std::unordered_map<TaskId, std::unique_ptr<Task>> ending_;  // aborted, not yet over
  TaskSet task_set_;
  blockdev::RangeLocks ranges_;
  std::vector<Task*> granted_;  // have got their range, to be continued
  bool settling_ = false;

  // Of a unit that other hosts serve, too.
  std::uint64_t followed_ = 0;                // the state that new requests are checked by
  std::vector<blockdev::lease::Hold> holds_;  // of others
  std::unordered_set<Task*> under_way_;       // with the store
  std::unordered_set<Task*> draining_;        // of them, those that an older state let through
  std::vector<Task*> held_off_;               // by a hold
  unsigned changing_ = 0;                     // changes that are not answered
};

void LogicalUnit::abort_where(auto&& meant) {
  std::vector<TaskId> ids;
  for (const auto& [id, task] : tasks_)
    if (meant(*task)) ids.push_back(id);
  // Telling the owner of one may end another.
  for (const TaskId id : ids)
    if (const auto found = tasks_.find(id); found != tasks_.end()) drop(*found->second);
}

}  // namespace tidepool::scsi
