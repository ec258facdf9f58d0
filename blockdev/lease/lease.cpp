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
#include "blockdev/lease/lease_clock.h"
#include "blockdev/lease/shared_claims.h"

namespace tidepool::blockdev::lease {

namespace {

constexpr std::chrono::milliseconds farewell{1'000};
// A renewal that takes longer than it lasts is worth nothing: overwriting, listing, reading.
constexpr int calls_of_renewal = 3;
constexpr int tries_of_look = 5;

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
  auto inherited = shared_before(*lease->directory_, lease->token_);
  if (!inherited) return std::unexpected(inherited.error());
  lease->inherited_ = std::move(*inherited);
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
  return boot_time().count() < valid_until_.load() ? WritePermit::yes : WritePermit::not_now;
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

Result<> Lease::drop_inheritance() {
  const auto directory = open_(options_.terms.duration, options_.stop);
  const auto names = directory->list();
  if (!names) return std::unexpected(names.error());
  return remove_claims(*directory, *names, token_);
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
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(at - boot_time());
  std::array<pollfd, 2> ends{};
  ends[0] = {.fd = stop_.get(), .events = POLLIN, .revents = 0};
  ends[1] = {.fd = stop, .events = POLLIN, .revents = 0};
  const auto wait = std::clamp<std::int64_t>(left.count(), 0, 3'600'000);
  return ::poll(ends.data(), ends.size(), static_cast<int>(wait)) <= 0;
}

Result<Sight> Lease::look() {
  for (int left = tries_of_look;; --left) {
    auto sight = look_once();
    // Who shares a disk replaces claims by higher ones.
    if (!sight && sight.error().kind == ErrorKind::not_found && left > 1) continue;
    return sight;
  }
}

Result<Sight> Lease::look_once() {
  auto names = directory_->list();
  if (!names) return std::unexpected(names.error());
  Sight sight;
  for (const std::string& name : *names) sight.number = std::max(sight.number, claim_number(name));
  if (sight.number == 0) return sight;
  const std::string name = claim_name(sight.number);
  auto content = directory_->read(name, Claim::encoded_size);
  if (!content) return std::unexpected(content.error());
  sight.content = std::move(*content);
  if (decode_claim(sight.content)) return sight;
  const auto whole = directory_->read(name, SharedState::most_encoded + 1);
  if (!whole) return std::unexpected(whole.error());
  const auto shared = decode_shared(*whole);
  if (!shared || shared->number != sight.number) return sight;
  const auto claim = as_single_claim(*directory_, *shared);
  if (!claim) return std::unexpected(claim.error());
  const auto encoded = encode(*claim);
  sight.content.assign(encoded.begin(), encoded.end());
  return sight;
}

Result<> Lease::perform(const LeaseState::Step& step) {
  const Time began = boot_time();
  const Claim& claim = state_.claim();
  const auto give_up = [&](Error error) -> Result<> {
    state_.failed(boot_time());
    return std::unexpected(std::move(error));
  };
  switch (step.what) {
    case LeaseState::Do::nothing:
      return {};
    case LeaseState::Do::look: {
      auto sight = look();
      if (!sight) return give_up(std::move(sight.error()));
      state_.looked(began, boot_time(), *sight);
      return {};
    }
    case LeaseState::Do::create: {
      auto made = directory_->create(claim_name(claim.number), encode(claim));
      const bool exists = !made && made.error().kind == ErrorKind::exists;
      using Creation = LeaseState::Creation;
      state_.created(boot_time(), made     ? Creation::made
                                  : exists ? Creation::exists
                                           : Creation::unknown);
      return exists ? Result<>() : made;
    }
    case LeaseState::Do::renew: {
      // Gone is what a successor removed: the look tells.
      auto written = directory_->overwrite(claim_name(claim.number), encode(claim));
      if (!written && written.error().kind != ErrorKind::not_found)
        return give_up(std::move(written.error()));
      auto sight = look();
      if (!sight) return give_up(std::move(sight.error()));
      state_.renewed(began, boot_time(), *sight);
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
    if (inherited_ || std::exchange(tidied_, true)) continue;
    // Predecessors' claims: nobody looks at them any more.
    if (const auto names = directory_->list()) (void)remove_claims(*directory_, *names, token_);
  }
}

}  // namespace tidepool::blockdev::lease
