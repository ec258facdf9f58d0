#include "blockdev/lease/lease.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <ctime>
#include <utility>

#include "base/log.h"
#include "base/text_table.h"

namespace tidepool::blockdev::lease {

namespace {

constexpr std::chrono::milliseconds farewell{1'000};
// A renewal that takes longer than it lasts is worth nothing: overwriting, listing, reading.
constexpr int calls_of_renewal = 3;

// Goes on while the machine sleeps, unlike the steady clock.
Time now() {
  timespec time{};
  ::clock_gettime(CLOCK_BOOTTIME, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

std::string time_text(std::int64_t seconds) {
  const std::time_t time = seconds;
  std::tm parts{};
  std::array<char, 32> text{};
  if (!::localtime_r(&time, &parts)) return "?";
  return {text.data(), std::strftime(text.data(), text.size(), "%F %T", &parts)};
}

}  // namespace

Lease::Lease(OpenDirectory open, const LeaseOptions& options)
    : open_(std::move(open)),
      options_(options),
      stop_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      state_(options.terms, options.host, std::time(nullptr), options.sabotage) {}

Result<std::unique_ptr<Lease>> Lease::take(OpenDirectory open, const LeaseOptions& options) {
  std::unique_ptr<Lease> lease(new Lease(std::move(open), options));
  if (!lease->stop_) return fail_errno(errno, "cannot create an eventfd");
  lease->directory_ = lease->open_(options.terms.duration, options.stop);
  if (auto taken = lease->acquire(); !taken) return std::unexpected(taken.error());
  lease->token_ = lease->state_.claim().number;
  lease->publish();
  lease->directory_ = lease->open_(options.terms.duration / calls_of_renewal, lease->stop_.get());
  lease->thread_ = std::thread([self = lease.get()] { self->keep(); });
  return lease;
}

Lease::~Lease() { end(); }

void Lease::end() {
  const std::uint64_t one = 1;
  if (stop_) [[maybe_unused]]
    const auto written = ::write(stop_.get(), &one, sizeof one);
  if (thread_.joinable()) thread_.join();
}

WritePermit Lease::permit() const {
  if (options_.sabotage.no_self_fencing) return WritePermit::yes;
  if (over_.load()) return WritePermit::never;
  return now().count() < valid_until_.load() ? WritePermit::yes : WritePermit::not_now;
}

void Lease::release() {
  over_.store(true);
  end();
  if (!state_.may_release()) return;
  Claim last = state_.claim();
  last.state = ClaimState::released;
  // Somebody else's claim is another file: this one changes nothing then.
  const auto directory = open_(farewell, -1);
  if (auto r = directory->overwrite(claim_name(last.number), encode(last)); !r)
    log().warn("'{}': its lock is left to run out: {}", options_.disk, r.error().message);
}

Result<> Lease::acquire() {
  if (auto made = directory_->make(); !made) return made;
  bool reached = false, told = false;
  for (;;) {
    const LeaseState::Step step = state_.next();
    if (!pause_until(step.at, options_.stop))
      return fail(ErrorKind::busy, "'{}': its lock is not waited for any longer", options_.disk);
    auto done = perform(step);
    if (!done && (!reached || done.error().kind == ErrorKind::busy)) return done;
    if (!done) log().warn("{}; trying again", done.error().message);
    reached = true;
    if (state_.phase() == LeaseState::Phase::holding) return {};
    const auto& rival = state_.rival();
    if (state_.rival_lives() && !options_.wait) {
      return fail(ErrorKind::busy,
                  "'{}' is in use by {} since {}: stop it there first ('{}' is being renewed)",
                  options_.disk, rival ? printable(rival->host) : "somebody",
                  rival ? time_text(rival->since_seconds) : "?", directory_->name());
    }
    if (rival && !std::exchange(told, true)) {
      log().warn("'{}' was in use by {} since {}; whether it still is shows within {} s",
                 options_.disk, printable(rival->host), time_text(rival->since_seconds),
                 std::chrono::ceil<std::chrono::seconds>(
                     2 * (options_.terms.duration + options_.terms.margin))
                     .count());
    }
  }
}

// False: it is to end, by end() or as `stop` is readable, if it is one.
bool Lease::pause_until(Time at, int stop) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(at - now());
  std::array<pollfd, 2> ends{};
  ends[0] = {.fd = stop_.get(), .events = POLLIN, .revents = 0};
  ends[1] = {.fd = stop, .events = POLLIN, .revents = 0};
  const auto wait = std::clamp<std::int64_t>(left.count(), 0, 3'600'000);
  return ::poll(ends.data(), ends.size(), static_cast<int>(wait)) <= 0;
}

Result<Sight> Lease::look() {
  auto names = directory_->list();
  if (!names) return std::unexpected(names.error());
  Sight sight;
  for (const std::string& name : *names) sight.number = std::max(sight.number, claim_number(name));
  if (sight.number == 0) return sight;
  auto content = directory_->read(claim_name(sight.number), Claim::encoded_size);
  if (!content) return std::unexpected(content.error());
  sight.content = std::move(*content);
  return sight;
}

Result<> Lease::perform(const LeaseState::Step& step) {
  const Time began = now();
  const Claim& claim = state_.claim();
  const auto give_up = [&](Error error) -> Result<> {
    state_.failed(now());
    return std::unexpected(std::move(error));
  };
  switch (step.what) {
    case LeaseState::Do::nothing:
      return {};
    case LeaseState::Do::look: {
      auto sight = look();
      if (!sight) return give_up(std::move(sight.error()));
      state_.looked(began, now(), *sight);
      return {};
    }
    case LeaseState::Do::create: {
      auto made = directory_->create(claim_name(claim.number), encode(claim));
      const bool exists = !made && made.error().kind == ErrorKind::exists;
      using Creation = LeaseState::Creation;
      state_.created(now(), made ? Creation::made : exists ? Creation::exists : Creation::unknown);
      return exists ? Result<>() : made;
    }
    case LeaseState::Do::renew: {
      // Gone is what a successor removed: the look tells.
      auto written = directory_->overwrite(claim_name(claim.number), encode(claim));
      if (!written && written.error().kind != ErrorKind::not_found)
        return give_up(std::move(written.error()));
      auto sight = look();
      if (!sight) return give_up(std::move(sight.error()));
      state_.renewed(began, now(), *sight);
      return {};
    }
  }
  return {};
}

void Lease::publish() {
  const bool holding = state_.phase() == LeaseState::Phase::holding;
  valid_until_.store(holding ? state_.valid_until().count() : 0);
}

void Lease::keep() {
  bool told = false;
  while (pause_until(state_.next().at, -1)) {
    auto done = perform(state_.next());
    if (!done && done.error().kind == ErrorKind::busy) continue;  // it is to end
    if (!done && !std::exchange(told, true))
      log().warn("'{}': its lock is not renewed: {}; trying again", options_.disk,
                 done.error().message);
    if (state_.phase() == LeaseState::Phase::lost) {
      over_.store(true);
      log().error("'{}': its lock was taken over by another host; nothing is written any more",
                  options_.disk);
      return;
    }
    publish();
    if (!done) continue;
    if (std::exchange(told, false)) log().info("'{}': its lock is renewed again", options_.disk);
    if (std::exchange(tidied_, true)) continue;
    // Predecessors' claims: nobody looks at them any more.
    const auto names = directory_->list();
    for (const std::string& name : names.value_or(std::vector<std::string>())) {
      const std::uint64_t number = claim_number(name);
      if (number != 0 && number < token_) (void)directory_->remove(name);
    }
  }
}

}  // namespace tidepool::blockdev::lease
