#include "blockdev/stores/remote_session.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/log.h"
#include "blockdev/stores/remote_replay.h"

namespace tidepool::blockdev {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds first_delay{10}, longest_delay{500};
// A generation that ends sooner was no success.
constexpr milliseconds good_life{200};

}  // namespace

RemoteSession::RemoteSession(std::unique_ptr<RemoteEndpoint> endpoint,
                             const RemoteOptions& options)
    : endpoint_(std::move(endpoint)), options_(options), stop_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

Result<std::unique_ptr<RemoteSession>> RemoteSession::open(
    std::unique_ptr<RemoteEndpoint> endpoint, const RemoteOptions& options) {
  std::unique_ptr<RemoteSession> session(new RemoteSession(std::move(endpoint), options));
  if (!session->stop_) return fail_errno(errno, "cannot create an eventfd");
  auto link = session->endpoint_->connect(session->stop_.get());
  if (!link) return std::unexpected(link.error());
  session->facts_ = (*link)->facts();
  session->server_ = (*link)->server();
  session->tells_ = session->server_ != 0;
  (session->anchored() ? session->anchor_ : session->spare_) = std::move(*link);
  session->keeper_ = std::thread([self = session.get()] { self->keep(); });
  return session;
}

RemoteSession::~RemoteSession() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  const std::uint64_t one = 1;
  if (stop_) [[maybe_unused]] const auto written = ::write(stop_.get(), &one, sizeof one);
  changed_.notify_one();
  if (keeper_.joinable()) keeper_.join();
}

// --- for lanes ---

void RemoteSession::want(const std::shared_ptr<Seat>& seat) {
  const std::lock_guard lock(mutex_);
  wanting_.push_back(seat);
  changed_.notify_one();
}

void RemoteSession::leave(const std::shared_ptr<Seat>& seat) {
  const std::lock_guard lock(mutex_);
  std::erase(wanting_, seat);
}

void RemoteSession::lost(std::uint64_t generation, const std::string& why) {
  const std::lock_guard lock(mutex_);
  if (generation_.load() != generation) return;
  generation_.store(generation + 1);
  spare_.reset();
  // What one of these was told is not known.
  if (log_.is_syncing()) distrust();
  log().warn("'{}': connection lost ({}); requests wait until it is back", uri(), why);
}

bool RemoteSession::is_the_server(std::uint64_t server) const {
  return !tells_ || server == server_ || options_.forget_unflushed;
}

bool RemoteSession::record(std::uint64_t generation, const RemoteAnswer& answer, IoOp op,
                           std::uint64_t offset, std::span<const std::byte> data) {
  std::vector<std::byte> copy;
  if (flushes()) copy.assign(data.begin(), data.end());
  const std::lock_guard lock(mutex_);
  if (generation_.load() != generation || !is_the_server(answer.server)) return false;
  // What is stable must still follow older writes of the same place, if they are sent again.
  if (flushes() && !(answer.stable && log_.entries().empty()))
    log_.add(op, offset, answer.length, std::move(copy));
  return true;
}

bool RemoteSession::wants_flush() const {
  if (!flushes()) return false;
  const std::lock_guard lock(mutex_);
  return log_.memory_bytes() >= options_.unflushed_limit;
}

RemoteSession::FlushBegun RemoteSession::begin_flush(std::uint64_t generation) {
  const std::lock_guard lock(mutex_);
  if (generation_.load() != generation) return {};
  if (!resend_) return {.sync = log_.begin_sync()};
  if (resend_error_ != 0) return {.sync = {}, .error = std::exchange(resend_error_, 0)};
  resend_asked_ = true;
  return {};
}

bool RemoteSession::flushed(std::uint64_t generation, std::uint64_t server,
                            const UnflushedLog::Sync& sync) {
  const std::lock_guard lock(mutex_);
  if (generation_.load() != generation || !is_the_server(server) || resend_) return false;
  log_.end_sync(sync, true);
  return true;
}

UnflushedLog::Sync RemoteSession::begin_sync(std::uint64_t generation) {
  const std::lock_guard lock(mutex_);
  if (generation_.load() != generation) return {};
  return log_.begin_sync();
}

void RemoteSession::end_sync(std::uint64_t generation, const UnflushedLog::Sync& sync) {
  const std::lock_guard lock(mutex_);
  if (generation_.load() == generation) log_.end_sync(sync, false);
}

bool RemoteSession::sync_failed(std::uint64_t generation, const UnflushedLog::Sync& sync) {
  const std::lock_guard lock(mutex_);
  if (generation_.load() != generation) return true;
  if (log_.entries().empty() || options_.trust_after_failure) {
    log_.end_sync(sync, false);
    return false;
  }
  distrust();
  resend_told_ = resend_;
  return true;
}

void RemoteSession::distrust() {
  log_.forget_syncs();
  resend_ = !log_.entries().empty() && !options_.trust_after_failure;
}

void RemoteSession::owe_flush_error(int error) {
  const std::lock_guard lock(mutex_);
  owed_flush_error_ = error;
}

int RemoteSession::take_flush_error() {
  const std::lock_guard lock(mutex_);
  return std::exchange(owed_flush_error_, 0);
}

void RemoteSession::change_begins(const void* key, const IoRequest& request) {
  if (!knows_holes()) return;
  const std::uint64_t begin = request.offset, end = request.offset + request.length;
  if (request.op == IoOp::discard) {
    const std::lock_guard lock(holes_mutex_);
    holes_.discarding(key, begin, end);
    any_holes_.store(true);
  } else if (any_holes_.load()) {
    const std::lock_guard lock(holes_mutex_);
    holes_.written(begin, end);
  }
}

void RemoteSession::change_ended(const void* key, const IoRequest& request, bool well) {
  if (!knows_holes() || !any_holes_.load()) return;
  const std::lock_guard lock(holes_mutex_);
  if (request.op == IoOp::discard) {
    holes_.discarded(key, well);
  } else {
    holes_.written(request.offset, request.offset + request.length);
  }
  any_holes_.store(!holes_.empty());
}

void RemoteSession::each_hole(
    std::uint64_t begin, std::uint64_t end,
    const std::function<bool(std::uint64_t, std::uint64_t, bool)>& sink) const {
  struct Part {
    std::uint64_t begin, end;
    bool hole;
  };
  std::vector<Part> parts;
  {
    const std::lock_guard lock(holes_mutex_);
    holes_.each(begin, end, [&](std::uint64_t from, std::uint64_t to, bool hole) {
      parts.push_back({from, to, hole});
      return true;
    });
  }
  for (const Part& part : parts)
    if (!sink(part.begin, part.end, part.hole)) return;
}

void RemoteSession::forbidden() {
  if (failure_.load() == 0) fail_for_good(EIO, "it may not be written by this host any more");
}

// --- the keeper ---

void RemoteSession::keep() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stopping_ || !wanting_.empty(); });
    if (stopping_) return;
    Grant grant{.link = std::exchange(spare_, nullptr), .generation = generation_.load()};
    if (!grant.link && failure_.load() == 0) {
      lock.unlock();
      grant.link = establish(grant.generation);
      lock.lock();
      if (stopping_) return;
    }
    grant.error = failure_.load();
    if (grant.error != 0) grant.link.reset();
    if (wanting_.empty()) continue;  // it left meanwhile
    const auto seat = std::move(wanting_.front());
    wanting_.pop_front();
    seat->loop.post([seat, grant] {
      if (seat->granted) seat->granted(grant);
    });
  }
}

// Waits before the next attempt, longer each time; false when the session ends.
bool RemoteSession::pause() {
  if (delay_ > milliseconds(0)) {
    pollfd stop{.fd = stop_.get(), .events = POLLIN, .revents = 0};
    if (::poll(&stop, 1, static_cast<int>(delay_.count())) > 0) return false;
  }
  delay_ = std::clamp(delay_ * 2, first_delay, longest_delay);
  const std::lock_guard lock(mutex_);
  return !stopping_;
}

// A connection of the generation that it sets, which has all that was acknowledged;
// null when the session ends or has failed.
std::shared_ptr<RemoteLink> RemoteSession::establish(std::uint64_t& generation) {
  const auto began = Clock::now();
  delay_ = generation_.load() == settled_ ? milliseconds(0) : rest_;
  bool told = false;
  bool refused = false;  // what was to be sent again after a failed flush
  const auto given_up = [&] {
    return options_.give_up_after.count() != 0 && Clock::now() - began >= options_.give_up_after;
  };
  while (pause()) {
    auto connected = endpoint_->connect(stop_.get());
    if (!connected) {
      if (!std::exchange(told, true)) log().warn("{}; trying again", connected.error().message);
      if (!given_up()) continue;
      fail_for_good(ETIMEDOUT, fmt::format("no connection for {} seconds: {}",
                                           options_.give_up_after.count(),
                                           connected.error().message));
      return nullptr;
    }
    std::shared_ptr<RemoteLink> link = std::move(*connected);
    if (const auto unfit = unfitness(facts_, link->facts()); !unfit.empty()) {
      fail_for_good(EIO, fmt::format("another export is served there: {}", unfit));
      return nullptr;
    }
    bool same = false;     // as the settled generation's
    bool resend = false;   // though it is
    bool goes_on = false;  // though what is sent again is refused
    {
      const std::lock_guard lock(mutex_);
      if (link->flush_failed()) distrust();
      if (anchor_ && generation_.load() != settled_) anchor_.reset();
      generation = generation_.load();
      same = tells_ && link->server() == server_;
      resend = resend_;
      goes_on = resend && (same || resend_told_);
    }
    if (generation == settled_ && (tells_ || anchor_)) {
      if (!tells_) same = anchor_->answers(stop_.get());
      if (same && !link->flush_failed()) return link;
      anchor_.reset();
      lost(generation, "another server may have taken its place");
      const std::lock_guard lock(mutex_);
      generation = generation_.load();
    }
    if (generation != settled_) {
      if (permit() == WritePermit::never) {
        forbidden();
        return nullptr;
      }
      const bool replays = refused ? !same && !goes_on : !same || resend;
      if (auto r = replays ? replay(*link) : Result<>(); !r) {
        if (r.error().kind == ErrorKind::busy) continue;
        if (!goes_on) {
          if (r.error().kind == ErrorKind::no_space && !given_up()) {
            if (!std::exchange(told, true)) log().error("{}; trying again", r.error().message);
            continue;
          }
          fail_for_good(EIO, r.error().message);
          return nullptr;
        }
        log().error("{}; flushes fail until it does", r.error().message);
        refused = true;
        const std::lock_guard lock(mutex_);
        if (std::exchange(resend_asked_, false)) resend_error_ = r.error().errno_value;
        continue;
      }
      settle(generation, *link, replays, began);
      refused = false;
    }
    if (!anchored()) return link;
    anchor_ = std::move(link);
    delay_ = milliseconds(0);
  }
  return nullptr;
}

void RemoteSession::settle(std::uint64_t generation, const RemoteLink& link, bool replayed,
                           Clock::time_point since) {
  const auto now = Clock::now();
  rest_ = now - settled_at_ > good_life ? milliseconds(0)
                                        : std::clamp(rest_ * 2, first_delay, longest_delay);
  settled_at_ = now;
  settled_ = generation;
  const std::lock_guard lock(mutex_);
  server_ = link.server();
  if (replayed) resend_ = resend_told_ = resend_asked_ = false;
  const auto away = std::chrono::duration_cast<milliseconds>(now - since);
  log().info("'{}': connected again after {} ms; {} unflushed changes were sent again", uri(),
             away.count(), replayed ? log_.entries().size() : 0);
}

// Nobody has a connection of the new generation yet, so the log stays as it is.
Result<> RemoteSession::replay(RemoteLink& link) {
  if (options_.forget_unflushed) log_.clear();
  return send_again(log_, link, uri(), stop_.get(), [this] { return permit(); });
}

void RemoteSession::fail_for_good(int error, const std::string& why) {
  log().error("'{}': {}; all its requests fail from now on, open it anew", uri(), why);
  failure_.store(error);
}

}  // namespace tidepool::blockdev
