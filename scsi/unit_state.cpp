// The part of a logical unit that changes rarely: aborts and resets, unit attentions,
// mode, medium, reservations.
#include <algorithm>
#include <utility>

#include "base/log.h"
#include "scsi/logical_unit.h"
#include "scsi/reservation_format.h"

namespace tidepool::scsi {

namespace {

constexpr std::size_t most_attentions = 8;

}  // namespace

// Off the pending list. What the store is doing for it goes on; so does its hold on its range.
void LogicalUnit::drop(Task& task) {
  std::unique_ptr<Task> owned = take(task);
  owned->owner->dropped(*owned);
  owned->aborted = true;
  if (!owned->busy)
    let_go(*owned);
  else if (forget_aborted_ && std::exchange(owned->range.held, false))
    ranges_.release(owned->range);
  if (owned->busy) ending_.emplace(owned->id, std::move(owned));
}

bool LogicalUnit::abort(TaskId id) {
  const auto found = tasks_.find(id);
  if (found == tasks_.end()) return false;
  drop(*found->second);
  settle();
  return true;
}

void LogicalUnit::abort_tasks_of(NexusId nexus) {
  abort_where([&](const Task& task) { return task.nexus == nexus; });
  settle();
}

void LogicalUnit::clear_tasks(NexusId by) {
  clear_here(by);
  if (sharing_ != nullptr) share_effect({.kind = SharedEffect::Kind::clear});
}

void LogicalUnit::clear_here(NexusId by) {
  std::set<NexusId> others;
  for (const auto& [id, task] : tasks_)
    if (task->nexus != by) others.insert(task->nexus);
  abort_where([](const Task&) { return true; });
  for (const NexusId other : others)
    if (const auto found = nexuses_.find(other); found != nexuses_.end())
      add_attention(found->second, asc::commands_cleared);
  settle();
}

void LogicalUnit::reset(std::uint16_t attention) {
  reset_here(attention);
  if (sharing_ != nullptr) share_effect({.kind = SharedEffect::Kind::reset, .code = attention});
}

void LogicalUnit::reset_here(std::uint16_t attention) {
  abort_where([](const Task&) { return true; });
  legacy_holder_ = 0;
  mode_ = default_mode(mode_context());
  for (auto& [id, nexus] : nexuses_) {
    nexus.prevents_removal = false;
    nexus.copies.clear();
    nexus.attentions.clear();
    add_attention(nexus, attention);
  }
  settle();
}

void LogicalUnit::add_attention(Nexus& nexus, std::uint16_t code) {
  if (std::ranges::find(nexus.attentions, code) != nexus.attentions.end()) return;
  if (nexus.attentions.size() < most_attentions) nexus.attentions.push_back(code);
}

void LogicalUnit::attention_for_others(NexusId except, std::uint16_t code) {
  for (auto& [id, nexus] : nexuses_)
    if (id != except) add_attention(nexus, code);
}

void LogicalUnit::attention_for_port(const PortId& port, std::uint16_t code) {
  for (auto& [id, nexus] : nexuses_)
    if (nexus.port == port) add_attention(nexus, code);
}

void LogicalUnit::change_mode(const Task& by, const ModeParameters& mode) {
  if (mode == mode_) return;
  mode_ = mode;
  attention_for_others(by.nexus, asc::mode_parameters_changed);
}

bool LogicalUnit::removal_prevented() const {
  return std::ranges::any_of(nexuses_,
                             [](const auto& entry) { return entry.second.prevents_removal; });
}

void LogicalUnit::set_loaded(const Task& by, bool loaded) {
  if (loaded == loaded_) return;
  loaded_ = loaded;
  if (loaded) attention_for_others(by.nexus, asc::medium_may_have_changed);
}

void LogicalUnit::change_reservations(Task& task, const ReservationRequest& request) {
  if (sharing_ != nullptr) return share_reservations(task, request);
  if (saving_) return waiting_changes_.push_back({task.id, request});
  PersistentReservations changed = reservations_;
  const ReservationState& before = reservations_.state();
  ReservationOutcome outcome = changed.apply(nexus_of(task).port, request);
  if (outcome.status == Status::check_condition) return fail(task, outcome.sense);
  if (outcome.status != Status::good) return finish(task, outcome.status);
  if (changed.state().registrants.size() > most_registrants)
    return fail(
        task, {.key = SenseKey::illegal_request, .code = asc::insufficient_registration_resources});
  const bool stored = before.through_power_loss || changed.state().through_power_loss;
  if (!stored || changed.state() == before)
    return apply_reservations(task.id, std::move(changed), outcome);
  saving_ = std::make_unique<Saving>(
      Saving{.task = task.id, .changed = std::move(changed), .outcome = std::move(outcome)});
  helper_.loop().post([this] {
    saving_->saved = storage_->save(saving_->changed.state());
    loop_.post([this] { reservations_saved(); });
  });
}

void LogicalUnit::reservations_saved() {
  const std::unique_ptr<Saving> saving = std::move(saving_);
  if (saving->saved) {
    apply_reservations(saving->task, std::move(saving->changed), saving->outcome);
  } else {
    log().error("reservations of '{}': {}", store_->name(), saving->saved.error().message);
    if (Task* const task = find(saving->task))
      fail(*task, {.key = SenseKey::hardware_error, .code = asc::internal_target_failure});
  }
  while (saving_ == nullptr && !waiting_changes_.empty()) {
    const WaitingChange next = std::move(waiting_changes_.front());
    waiting_changes_.pop_front();
    if (Task* const task = find(next.task)) change_reservations(*task, next.request);
  }
}

void LogicalUnit::apply_reservations(TaskId by, PersistentReservations changed,
                                     const ReservationOutcome& outcome) {
  reservations_ = std::move(changed);
  for (const auto& notice : outcome.notices) attention_for_port(notice.port, notice.code);
  abort_where([&](const Task& other) {
    return other.id != by && std::ranges::find(outcome.aborted, nexuses_.at(other.nexus).port) !=
                                 outcome.aborted.end();
  });
  // It may have been aborted while the change was made stable.
  if (Task* const task = find(by)) return finish(*task);
  settle();
}

}  // namespace tidepool::scsi
