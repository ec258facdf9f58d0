#include "blockdev/lease/shared_lease.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <ctime>
#include <utility>

#include "base/log.h"
#include "blockdev/lease/lease_clock.h"
#include "blockdev/lease/shared_claims.h"

namespace tidepool::blockdev::lease {

namespace {

constexpr std::chrono::milliseconds farewell{1'000};
constexpr int farewells = 5;  // as others change the state meanwhile
// As of a Lease: what one beat and its look take in calls.
constexpr int calls_of_beat = 3;
// While a change is under way, and else.
constexpr std::chrono::milliseconds fast{15}, slow{200};

void raise(const UniqueFd& event) {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(event.get(), &one, sizeof one);
}

}  // namespace

SharedLease::SharedLease(Lease::OpenDirectory open, const LeaseOptions& options, const Member& self,
                         const SharedMember::Sabotage& sabotage)
    : open_(std::move(open)),
      options_(options),
      self_(self),
      stop_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      kick_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      no_self_fencing_(sabotage.no_self_fencing),
      member_(options.terms, fast, slow, self, sabotage) {}

Result<std::unique_ptr<SharedLease>> SharedLease::join(Lease::OpenDirectory open,
                                                       const LeaseOptions& options,
                                                       const First& first,
                                                       const SharedMember::Sabotage& sabotage) {
  const Member self{.id = new_uuid(), .host = options.host};
  std::unique_ptr<SharedLease> lease(new SharedLease(std::move(open), options, self, sabotage));
  if (!lease->stop_ || !lease->kick_) return fail_errno(errno, "cannot create an eventfd");
  lease->directory_ = lease->open_(options.terms.duration, options.stop);
  if (auto made = lease->directory_->make(); !made) return std::unexpected(made.error());
  if (auto found = lease->become_first(first); !found) return std::unexpected(found.error());
  if (auto entered = lease->enter(); !entered) return std::unexpected(entered.error());
  lease->directory_ = lease->open_(options.terms.duration / calls_of_beat, lease->stop_.get());
  lease->thread_ = std::thread([self = lease.get()] { self->keep(); });
  return lease;
}

// Unless there are members already: the whole disk is taken, then it is shared.
Result<> SharedLease::become_first(const First& first) {
  for (;;) {
    const auto sight = look_at_shared(*directory_, self_.id, std::nullopt, names_);
    if (!sight) return std::unexpected(sight.error());
    if (sight->state && !sight->state->members.empty()) return {};
    auto whole = Lease::take(open_, options_);
    if (!whole) {
      const auto now = look_at_shared(*directory_, self_.id, std::nullopt, names_);
      if (now && now->state && !now->state->members.empty()) return {};
      return std::unexpected(whole.error());
    }
    auto payload = first((*whole)->inherited());
    if (!payload) return std::unexpected(payload.error());
    const std::string mine = member_name(self_.id);
    if (auto beat = directory_->replace(mine, encode(member_.beat())); !beat) return beat;
    const std::uint64_t token = (*whole)->token();
    whole->reset();  // it would see itself taken over
    const SharedState state{.number = token + 1,
                            .duration = options_.terms.duration,
                            .since_seconds = std::time(nullptr),
                            .members = {self_},
                            .holds = {},
                            .payload = std::move(*payload)};
    auto made = directory_->publish(claim_name(state.number), encode(state));
    if (!made && made.error().kind != ErrorKind::exists) return made;
    if (!made) continue;
    // What those left behind that ended without a word.
    for (const std::string& name : names_)
      if ((is_member_name(name) && name != mine) || name.ends_with(".new"))
        (void)directory_->remove(name);
    (void)remove_claims(*directory_, names_, state.number);
    return {};
  }
}

Result<> SharedLease::enter() {
  bool told = false;
  while (!member_.may_write(boot_time())) {
    propose();
    const SharedMember::Step step = member_.next();
    if (!pause_until(step.at, options_.stop))
      return fail(ErrorKind::busy, "'{}': its lock is not waited for any longer", options_.disk);
    auto done = perform(step);
    if (member_.phase() == SharedMember::Phase::lost)
      return fail(ErrorKind::busy, "'{}' was taken by another host just now ('{}')", options_.disk,
                  directory_->name());
    if (!done && done.error().kind == ErrorKind::busy) return done;
    if (!done && !std::exchange(told, true)) log().warn("{}; trying again", done.error().message);
  }
  publish();
  tell_news();
  return {};
}

SharedLease::~SharedLease() { end(); }

void SharedLease::end() {
  if (stop_) raise(stop_);
  if (thread_.joinable()) thread_.join();
}

WritePermit SharedLease::permit() const {
  if (no_self_fencing_) return WritePermit::yes;
  if (over_.load()) return WritePermit::never;
  return boot_time().count() < valid_until_.load() ? WritePermit::yes : WritePermit::not_now;
}

void SharedLease::leave() {
  over_.store(true);
  end();
  if (member_.phase() != SharedMember::Phase::active) return;
  directory_ = open_(farewell, -1);
  Result<> gone;
  for (int left = farewells; left > 0; --left) {
    const auto sight = look_at_shared(*directory_, self_.id, std::nullopt, names_);
    if (!sight) {
      gone = std::unexpected(sight.error());
      break;
    }
    if (!sight->state || sight->state->find(self_.id) == nullptr) break;
    SharedState without = *sight->state;
    ++without.number;
    without.remove(self_.id);
    gone = directory_->publish(claim_name(without.number), encode(without));
    if (gone) (void)remove_claims(*directory_, names_, without.number);
    if (gone || gone.error().kind != ErrorKind::exists) break;
  }
  if (gone) gone = directory_->remove(member_name(self_.id));
  if (!gone)
    log().warn("'{}': its place among those that share it is left to run out: {}", options_.disk,
               gone.error().message);
}

void SharedLease::change(Edit edit, Done done) {
  {
    const std::lock_guard lock(mutex_);
    if (!closed_) {
      arrived_.push_back({.edit = std::move(edit), .done = std::move(done)});
      done = nullptr;
    }
  }
  if (done) return done(false);
  raise(kick_);
}

void SharedLease::follow(Follow follow) {
  const std::lock_guard lock(follow_mutex_);
  follow_ = std::move(follow);
  if (follow_ && newest_) follow_(*newest_);
}

void SharedLease::acknowledge(std::uint64_t number) {
  acknowledged_.store(number);
  raise(kick_);
}

// False: it is to end, by end() or as `stop` is readable, if it is one.
bool SharedLease::pause_until(Time at, int stop) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(at - boot_time());
  std::array<pollfd, 3> ends{};
  ends[0] = {.fd = stop_.get(), .events = POLLIN, .revents = 0};
  ends[1] = {.fd = stop, .events = POLLIN, .revents = 0};
  ends[2] = {.fd = kick_.get(), .events = POLLIN, .revents = 0};
  const auto wait = std::clamp<std::int64_t>(left.count(), 0, 3'600'000);
  (void)::poll(ends.data(), ends.size(), static_cast<int>(wait));
  std::uint64_t count = 0;
  if (ends[2].revents != 0) [[maybe_unused]]
    const auto read = ::read(kick_.get(), &count, sizeof count);
  return ends[0].revents == 0 && ends[1].revents == 0;
}

Result<> SharedLease::perform(const SharedMember::Step& step) {
  const Time began = boot_time();
  if (step.at > began) return {};  // it was kicked
  const auto give_up = [&](Error error) -> Result<> {
    member_.failed(boot_time());
    return std::unexpected(std::move(error));
  };
  switch (step.what) {
    case SharedMember::Do::nothing:
      return {};
    case SharedMember::Do::beat: {
      const std::string mine = member_name(self_.id);
      const auto bytes = encode(member_.beat());
      const bool in = member_.phase() == SharedMember::Phase::active;
      auto written = in ? directory_->overwrite(mine, bytes) : directory_->replace(mine, bytes);
      // Gone is what the others removed: the look tells.
      if (!written && written.error().kind != ErrorKind::not_found)
        return give_up(std::move(written.error()));
      member_.beaten(began, boot_time());
      return {};
    }
    case SharedMember::Do::look: {
      auto sight = look_at_shared(*directory_, self_.id, member_.state(), names_);
      if (!sight) return give_up(std::move(sight.error()));
      member_.looked(began, boot_time(), std::move(*sight));
      return {};
    }
    case SharedMember::Do::create: {
      const SharedState& state = member_.proposal();
      auto made = directory_->publish(claim_name(state.number), encode(state));
      const bool exists = !made && made.error().kind == ErrorKind::exists;
      using Creation = LeaseState::Creation;
      member_.created(boot_time(), made     ? Creation::made
                                   : exists ? Creation::exists
                                            : Creation::unknown);
      return exists ? Result<>() : made;
    }
  }
  return {};
}

// Nobody looks at lower claims any more, nor at the files of who has gone.
void SharedLease::tidy() {
  (void)remove_claims(*directory_, names_, member_.state()->number);
  for (const Uuid& id : leaving_) (void)directory_->remove(member_name(id));
}

void SharedLease::publish() {
  const bool in = member_.phase() == SharedMember::Phase::active;
  valid_until_.store(in ? member_.valid_until().count() : 0);
}

void SharedLease::tell_news() {
  const auto& state = member_.state();
  if (!state || state->number == told_ || member_.phase() != SharedMember::Phase::active) return;
  told_ = state->number;
  const std::lock_guard lock(follow_mutex_);
  newest_ = state;
  if (follow_)
    follow_(*state);
  else
    acknowledged_.store(told_);  // there is nothing to drain
}

void SharedLease::move_changes() {
  member_.acknowledge(acknowledged_.load());
  {
    const std::lock_guard lock(mutex_);
    std::ranges::move(arrived_, std::back_inserter(changes_));
    arrived_.clear();
  }
  if (proposed_ != 0 && member_.outcome()) {
    if (*member_.outcome())
      tidy();
    else
      for (Change& change : changes_)
        if (change.number == proposed_) change.number = 0;
    proposed_ = 0;
  }
  propose();
  if (changes_.empty()) return;
  member_.hurry();
  const std::uint64_t settled = member_.settled();
  for (auto change = changes_.begin(); change != changes_.end();) {
    if (change->number == 0 || change->number == proposed_ || change->number > settled) {
      ++change;
      continue;
    }
    const Done done = std::move(change->done);
    change = changes_.erase(change);
    done(true);
  }
}

void SharedLease::propose() {
  auto draft = member_.draft();
  if (!draft) return;
  const std::uint64_t number = draft->state.number, settled = member_.settled();
  bool worth = draft->worth;
  for (Change& change : changes_) {
    if (change.number != 0) continue;
    switch (change.edit(draft->state, settled)) {
      case Edited::changed:
        worth = true;
        [[fallthrough]];
      case Edited::unchanged:
        change.number = number;
        break;
      case Edited::later:
        break;
    }
  }
  if (!worth) {
    // What changes nothing is so in the state that all follow who may write, once they do.
    for (Change& change : changes_)
      if (change.number == number) change.number = number - 1;
    return;
  }
  leaving_.clear();
  for (const Member& member : member_.state()->members)
    if (draft->state.find(member.id) == nullptr) leaving_.push_back(member.id);
  member_.propose(std::move(draft->state));
  proposed_ = number;
}

void SharedLease::keep() {
  bool told = false;
  for (;;) {
    tell_news();
    move_changes();
    const SharedMember::Step step = member_.next();
    if (!pause_until(step.at, -1)) break;
    auto done = perform(step);
    if (!done && done.error().kind == ErrorKind::busy) continue;  // it is to end
    if (!done && !std::exchange(told, true))
      log().warn("'{}': the hosts that share it are not reached: {}; trying again", options_.disk,
                 done.error().message);
    publish();
    if (member_.phase() == SharedMember::Phase::lost) {
      over_.store(true);
      log().error("'{}': the other hosts went on without this one; nothing is written any more",
                  options_.disk);
      break;
    }
    if (done && std::exchange(told, false)) log().info("'{}': reached again", options_.disk);
  }
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    std::ranges::move(arrived_, std::back_inserter(changes_));
    arrived_.clear();
  }
  for (Change& change : changes_) change.done(false);
  changes_.clear();
}

}  // namespace tidepool::blockdev::lease
