// The part of a logical unit that other hosts serve, too: what all of them follow, how long
// what is under way keeps this host from following, and what it asks of the others.
//
// A host follows a change of the reservations once no request is with the store that was checked
// before it, and a hold of another host once none of its range is. Each request to the store is
// checked anew when something changed since its task was.
#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/log.h"
#include "scsi/logical_unit.h"
#include "scsi/reservation_format.h"
#include "scsi/shared_part.h"

namespace tidepool::scsi {

using blockdev::lease::Hold;
using blockdev::lease::SharedState;
using blockdev::lease::Sharing;

namespace {

bool overlaps(const Hold& hold, const blockdev::IoRequest& request) {
  return hold.begin < request.offset + request.length && request.offset < hold.end;
}

bool overlaps(const Hold& a, const Hold& b) { return a.begin < b.end && b.begin < a.end; }

void forget_old(SharedPart& part, std::uint64_t settled) {
  std::erase_if(part.effects, [&](const SharedEffect& effect) { return effect.number <= settled; });
}

Sense no_longer_shared() {
  return {.key = SenseKey::hardware_error, .code = asc::internal_target_failure};
}

}  // namespace

Result<> LogicalUnit::begin_sharing() {
  std::optional<SharedState> first;
  sharing_->follow([&](const SharedState& state) { first = state; });
  sharing_->follow(nullptr);
  if (!first) return tidepool::fail(ErrorKind::busy, "'{}' is not shared any more", store_->name());
  if (auto part = decode_shared_part(first->payload); !part) return std::unexpected(part.error());
  follow(*first);
  sharing_->follow(
      [this](const SharedState& state) { loop_.post([this, state] { follow(state); }); });
  return {};
}

void LogicalUnit::follow(const SharedState& state) {
  if (state.number <= followed_) return;
  const auto part = decode_shared_part(state.payload);
  // Others never hear that this host follows: nothing is done against what it does not know.
  if (!part) return log().error("'{}': {}", store_->name(), part.error().message);
  const std::uint64_t before = std::exchange(followed_, state.number);
  bool checked_anew = part->reservations != reservations_.state();
  reservations_ = PersistentReservations(part->reservations);
  holds_.clear();
  for (const Hold& hold : state.holds)
    if (hold.member != sharing_->self()) holds_.push_back(hold);
  for (const SharedEffect& effect : part->effects) {
    if (before == 0 || effect.number <= before) continue;
    take_effect(effect);
    checked_anew = true;
  }
  for (Task* const task : under_way_)
    if (checked_anew || is_held(*task)) draining_.insert(task);
  if (draining_.empty()) sharing_->acknowledge(followed_);
  const std::vector<Task*> waiting = std::exchange(held_off_, {});
  for (Task* const task : waiting) {
    if (task->aborted)
      store_answered(*task, 0);
    else
      issue(*task, task->next);
  }
  settle();
}

void LogicalUnit::take_effect(const SharedEffect& effect) {
  const bool mine = effect.by == sharing_->self();
  switch (effect.kind) {
    case SharedEffect::Kind::attention:
      return attention_for_port(effect.port, effect.code);
    case SharedEffect::Kind::abort:
      return abort_where([&](const Task& task) {
        return !(mine && task.id == effect.task) && nexuses_.at(task.nexus).port == effect.port;
      });
    case SharedEffect::Kind::reset:
      return mine ? void() : reset_here(effect.code);
    case SharedEffect::Kind::clear:
      return mine ? void() : clear_here(0);
  }
}

bool LogicalUnit::is_held(const Task& task) const {
  return std::ranges::any_of(holds_,
                             [&](const Hold& hold) { return overlaps(hold, task.request); });
}

// True: the task's request must not be sent to the store now, or not at all.
bool LogicalUnit::holds_off(Task& task, Step next) {
  if (std::exchange(task.checked_by, followed_) != followed_ &&
      conflicts(task, task.command->access)) {
    finish(task, Status::reservation_conflict);
    return true;
  }
  if (!is_held(task)) return false;
  task.busy = true;
  task.next = next;
  held_off_.push_back(&task);
  return true;
}

void LogicalUnit::ended_at_store(Task& task) {
  if (under_way_.erase(&task) == 0) return;
  if (draining_.erase(&task) != 0 && draining_.empty()) sharing_->acknowledge(followed_);
}

void LogicalUnit::share(Sharing::Edit edit, std::function<void(bool settled)> done) {
  ++changing_;
  sharing_->change(std::move(edit), [this, done = std::move(done)](bool settled) {
    loop_.post([this, settled, done] {
      --changing_;
      done(settled);
    });
  });
}

void LogicalUnit::share_reservations(Task& task, const ReservationRequest& request) {
  const auto outcome = std::make_shared<ReservationOutcome>();
  const TaskId id = task.id;
  const auto edit = [outcome, id, request, self = sharing_->self(), port = nexus_of(task).port](
                        SharedState& state, std::uint64_t settled) {
    const auto refused = [&](const Sense& sense) {
      *outcome = {.status = Status::check_condition, .sense = sense};
      return Sharing::Edited::unchanged;
    };
    auto part = decode_shared_part(state.payload);
    if (!part) return refused(no_longer_shared());
    PersistentReservations changed(part->reservations);
    *outcome = changed.apply(port, request);
    if (outcome->status != Status::good || changed.state() == part->reservations)
      return Sharing::Edited::unchanged;
    if (changed.state().registrants.size() > most_registrants)
      return refused(
          {.key = SenseKey::illegal_request, .code = asc::insufficient_registration_resources});
    part->reservations = changed.state();
    forget_old(*part, settled);
    using Kind = SharedEffect::Kind;
    for (const auto& notice : outcome->notices)
      part->effects.push_back({.kind = Kind::attention,
                               .number = state.number,
                               .by = self,
                               .code = notice.code,
                               .port = notice.port});
    for (const PortId& aborted : outcome->aborted)
      part->effects.push_back(
          {.kind = Kind::abort, .number = state.number, .by = self, .task = id, .port = aborted});
    if (part->effects.size() > most_shared_effects) return Sharing::Edited::later;
    auto payload = encode_shared_part(*part);
    if (payload.size() > SharedState::most_payload) return Sharing::Edited::later;
    state.payload = std::move(payload);
    return Sharing::Edited::changed;
  };
  share(edit, [this, id, outcome](bool settled) {
    Task* const waiter = find(id);
    if (waiter == nullptr) return;
    if (!settled) return fail(*waiter, no_longer_shared());
    if (outcome->status == Status::check_condition) return fail(*waiter, outcome->sense);
    finish(*waiter, outcome->status);
  });
}

// The other hosts take it within the time in which they look; nobody waits for it.
void LogicalUnit::share_effect(SharedEffect effect) {
  effect.by = sharing_->self();
  share(
      [effect](SharedState& state, std::uint64_t settled) {
        auto part = decode_shared_part(state.payload);
        if (!part) return Sharing::Edited::unchanged;
        forget_old(*part, settled);
        if (part->effects.size() == most_shared_effects) return Sharing::Edited::later;
        part->effects.push_back(effect);
        part->effects.back().number = state.number;
        state.payload = encode_shared_part(*part);
        return Sharing::Edited::changed;
      },
      [](bool) {});
}

void LogicalUnit::with_hold(Task& task, Step next) {
  if (sharing_ == nullptr) return next(*this, task, 0);
  const Hold hold{.member = sharing_->self(),
                  .id = task.id,
                  .begin = task.range.begin * block_size(),
                  .end = task.range.end * block_size()};
  task.holds = true;
  task.busy = true;
  task.next = next;
  share(
      [hold](SharedState& state, std::uint64_t) {
        const bool taken = std::ranges::any_of(state.holds, [&](const Hold& other) {
          return other.member != hold.member && overlaps(other, hold);
        });
        if (taken || state.holds.size() == SharedState::most_holds) return Sharing::Edited::later;
        state.holds.push_back(hold);
        return Sharing::Edited::changed;
      },
      [this, &task](bool settled) { store_answered(task, settled ? 0 : EIO); });
}

void LogicalUnit::release_hold(Task& task) {
  if (!std::exchange(task.holds, false)) return;
  share(
      [self = sharing_->self(), id = task.id](SharedState& state, std::uint64_t) {
        const auto erased = std::erase_if(
            state.holds, [&](const Hold& hold) { return hold.member == self && hold.id == id; });
        return erased != 0 ? Sharing::Edited::changed : Sharing::Edited::unchanged;
      },
      [](bool) {});
}

}  // namespace tidepool::scsi
