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

std::optional<std::uint64_t> RemoteSession::flush_mark(std::uint64_t generation) const {
  const std::lock_guard lock(mutex_);
  if (generation_.load() != generation) return std::nullopt;
  return log_.mark();
}

bool RemoteSession::flushed(std::uint64_t generation, std::uint64_t server, std::uint64_t mark) {
  const std::lock_guard lock(mutex_);
  if (generation_.load() != generation || !is_the_server(server)) return false;
  log_.flushed(mark);
  return true;
}

void RemoteSession::owe_flush_error(int error) {
  const std::lock_guard lock(mutex_);
  owed_flush_error_ = error;
}

int RemoteSession::take_flush_error() {
  const std::lock_guard lock(mutex_);
  return std::exchange(owed_flush_error_, 0);
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
  while (pause()) {
    auto connected = endpoint_->connect(stop_.get());
    if (!connected) {
      const auto tried = Clock::now() - began;
      if (!std::exchange(told, true)) log().warn("{}; trying again", connected.error().message);
      if (options_.give_up_after.count() == 0 || tried < options_.give_up_after) continue;
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
    bool same = false;  // as the settled generation's
    {
      const std::lock_guard lock(mutex_);
      if (anchor_ && generation_.load() != settled_) anchor_.reset();
      generation = generation_.load();
      same = tells_ && link->server() == server_;
    }
    if (generation == settled_ && (tells_ || anchor_)) {
      if (!tells_) same = anchor_->answers(stop_.get());
      if (same) return link;
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
      if (auto r = same ? Result<>() : replay(*link); !r) {
        if (r.error().kind == ErrorKind::busy) continue;
        fail_for_good(EIO, r.error().message);
        return nullptr;
      }
      settle(generation, *link, !same, began);
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
