// The classic transport: read() and writev() on /dev/fuse.
//
// A multishot poll in the ring says when requests wait; they are then read in one
// burst until the device is dry or every exchange is in use. Each message is read
// to where its WRITE payload begins on a page boundary.
#include <linux/fuse.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "base/log.h"
#include "fs/fuse/transport.h"

namespace tidepool::elasticfs {

namespace {

constexpr std::size_t write_header = sizeof(fuse_in_header) + sizeof(fuse_write_in);

class ClassicTransport : public Transport {
 public:
  ClassicTransport(EventLoop& loop, Worker& worker, Receiver& receiver, int fd, unsigned count)
      : loop_(loop), receiver_(receiver), fd_(fd), memory_(count), exchanges_(count) {
    free_.reserve(count);
    for (unsigned i = 0; i < count; ++i) {
      exchanges_[i].transport = this;
      exchanges_[i].worker = &worker;
      exchanges_[i].payload = memory_.payload(i);
      free_.push_back(&exchanges_[i]);
    }
    poll_.transport = this;
    poll_.on_complete = [](Operation& self, int result, unsigned flags) {
      static_cast<Poll&>(self).transport->polled(result, flags);
    };
  }

  void start() override {
    arm();
    drain();
  }
  void reply(Exchange& exchange, std::span<const iovec> parts) override;
  unsigned pending() const override {
    return static_cast<unsigned>(exchanges_.size() - free_.size());
  }

 private:
  struct Poll : Operation {
    ClassicTransport* transport = nullptr;
  };

  void arm() { io_uring_prep_poll_multishot(loop_.prepare(poll_), fd_, POLLIN); }
  void polled(int result, unsigned flags);
  void drain();
  bool read_one();
  void recycle(Exchange& exchange);
  void disconnect();

  EventLoop& loop_;
  Receiver& receiver_;
  const int fd_;
  ExchangeMemory memory_;
  std::vector<Exchange> exchanges_;
  std::vector<Exchange*> free_;  // the last used first: its memory is warm
  Poll poll_;
  bool draining_ = false;
  bool starved_ = false;  // requests may wait, but every exchange is in use
  bool disconnected_ = false;
};

void ClassicTransport::polled(int result, unsigned flags) {
  if (disconnected_) return;
  if ((flags & IORING_CQE_F_MORE) == 0 && result != -ECANCELED) arm();
  drain();
}

void ClassicTransport::drain() {
  draining_ = true;
  while (!disconnected_ && read_one()) {
  }
  draining_ = false;
}

// False when there is nothing to read, or nowhere to read it to.
bool ClassicTransport::read_one() {
  starved_ = free_.empty();
  if (starved_) return false;
  Exchange& exchange = *free_.back();
  std::byte* const message = exchange.payload - write_header;
  const ssize_t length = ::read(fd_, message, write_header + payload_limit);
  if (length < 0) {
    if (errno == EAGAIN) return false;
    if (errno == EINTR || errno == ENOENT) return true;  // ENOENT: interrupted meanwhile
    if (errno != ENODEV) log().error("cannot read from the FUSE device: errno {}", errno);
    disconnect();
    return false;
  }
  free_.pop_back();
  const auto& header = *reinterpret_cast<const fuse_in_header*>(message);
  // No operation waits for anything but the disk: nothing to interrupt.
  const bool answered = header.opcode != FUSE_INTERRUPT && header.opcode != FUSE_FORGET &&
                        header.opcode != FUSE_BATCH_FORGET;
  if (header.opcode != FUSE_INTERRUPT) {
    exchange.unique = header.unique;
    receiver_.receive(exchange, {message, static_cast<std::size_t>(length)});
  }
  if (!answered) recycle(exchange);
  return true;
}

void ClassicTransport::reply(Exchange& exchange, std::span<const iovec> parts) {
  const ssize_t written = ::writev(fd_, parts.data(), static_cast<int>(parts.size()));
  // ENOENT: the caller gave up; ENODEV: unmounted by force.
  if (written < 0 && errno != ENOENT && errno != ENODEV)
    log().error("cannot answer a FUSE request: errno {}", errno);
  recycle(exchange);
}

void ClassicTransport::recycle(Exchange& exchange) {
  free_.push_back(&exchange);
  if (starved_ && !draining_) drain();
}

void ClassicTransport::disconnect() {
  disconnected_ = true;
  receiver_.disconnected();
}

}  // namespace

std::unique_ptr<Transport> make_classic_transport(EventLoop& loop, Worker& worker,
                                                  Receiver& receiver, int fd, unsigned exchanges) {
  return std::make_unique<ClassicTransport>(loop, worker, receiver, fd, exchanges);
}

}  // namespace tidepool::elasticfs
