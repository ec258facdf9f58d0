#include "virtio/queue_server.h"

#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>

#include <utility>

namespace tidepool::virtio {

QueueServer::QueueServer(EventLoop& loop, SplitQueue queue, const QueueStart& start,
                         std::function<bool()> serve,
                         std::function<void(const std::string&)> broken)
    : loop_(loop),
      queue_(std::move(queue)),
      kick_fd_(start.kick),
      interrupt_(start.interrupt),
      figures_(start.figures),
      serve_(std::move(serve)),
      broken_(std::move(broken)) {
  loop_.watch(*this);
  kick_.server = this;
  kick_.on_complete = [](Operation& self, int, unsigned) {
    QueueServer& server = *static_cast<Kick&>(self).server;
    server.waiting_ = false;
    server.take_kick();
    if (server.figures_ != nullptr) server.figures_->kicks.add(1);
    if (server.quiet_) return server.check_quiet();
    server.wait_for_kick();
    server.serve();
  };
}

QueueServer::~QueueServer() { loop_.unwatch(*this); }

void QueueServer::wait_for_kick() {
  if (waiting_) return;
  waiting_ = true;
  // Not a read: one of a front end's descriptors may not block, and then ends at once.
  io_uring_prep_poll_add(loop_.prepare(kick_), kick_fd_, POLLIN);
}

void QueueServer::take_kick() {
  std::uint64_t count = 0;
  iovec place{&count, sizeof count};
  // Whoever else reads the descriptor must not make this thread wait.
  [[maybe_unused]] const auto got = ::preadv2(kick_fd_, &place, 1, -1, RWF_NOWAIT);
}

void QueueServer::resume() {
  quiet_ = false;
  wait_for_kick();
  serve();  // what came while nobody looked
}

void QueueServer::quiesce(std::function<void()> done) {
  quiet_ = true;
  when_quiet_ = std::move(done);
  if (waiting_) {
    // The wait for a kick ends by one of our own.
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(kick_fd_, &one, sizeof one);
  }
  check_quiet();
}

void QueueServer::check_quiet() {
  if (!quiet_ || waiting_ || held_ > 0 || notice_due_ || !when_quiet_) return;
  std::exchange(when_quiet_, nullptr)();
}

void QueueServer::serve() {
  if (quiet_ || is_broken_) return;
  queue_.disable_kicks();
  put_back_ = 0;
  took_all_ = serve_();
}

bool QueueServer::look() {
  tell();
  if (quiet_ || is_broken_ || !took_all_ || !queue_.has_more(put_back_)) return false;
  serve();
  tell();  // of what ended at once: the loop may sleep next
  return true;
}

void QueueServer::tell() {
  if (!std::exchange(notice_due_, false)) return;
  if (queue_.wants_interrupt()) interrupt_->signal();
  check_quiet();
}

bool QueueServer::may_sleep() {
  // A device that did not take all calls more().
  if (quiet_ || is_broken_ || !took_all_) return true;
  return !queue_.enable_kicks(put_back_);
}

bool QueueServer::take(Chain& chain) {
  if (quiet_ || is_broken_) return false;
  put_back_ = 0;
  switch (queue_.pop(chain)) {
    case PopResult::chain:
      ++held_;
      return true;
    case PopResult::empty:
      return false;
    case PopResult::broken:
      break_down(queue_.fault());
      return false;
  }
  return false;
}

void QueueServer::give(const Chain& chain, std::uint32_t written) {
  queue_.push(chain, written);
  --held_;
  if (figures_ == nullptr) return;
  figures_->requests.add(1);
  figures_->bytes_from_guest.add(chain.readable_bytes);
  figures_->bytes_to_guest.add(written);
}

void QueueServer::give_all(std::span<const UsedChain> chains) {
  queue_.push_all(chains);
  held_ -= static_cast<unsigned>(chains.size());
  if (figures_ == nullptr) return;
  figures_->requests.add(chains.size());
  for (const UsedChain& chain : chains) figures_->bytes_to_guest.add(chain.written);
}

void QueueServer::put_back(std::span<const UsedChain> chains) {
  queue_.put_back(chains);
  held_ -= static_cast<unsigned>(chains.size());
  put_back_ = static_cast<std::uint16_t>(chains.size());
}

void QueueServer::break_down(const std::string& why) {
  if (std::exchange(is_broken_, true)) return;
  broken_(why);
}

}  // namespace tidepool::virtio
