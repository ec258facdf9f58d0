// FUSE over io_uring, with asynchronous replies.
//
// Each exchange is an entry of one of the kernel's queues: two buffers registered
// once, headers and payload. A completion brings a request; the reply is a
// command (commit and fetch) in the same ring as the pool's I/O, so that one
// io_uring_enter carries replies, fetches and disk I/O of a whole burst, and
// nothing is copied but the payload, by the kernel.
//
// INIT, FORGET and INTERRUPT still come over the device: a classic transport
// serves beside this one. When the kernel refuses an entry, it goes on with the
// device alone.
#include <linux/fuse.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/log.h"
#include "fs/fuse/kernel_abi.h"
#include "fs/fuse/transport.h"

namespace tidepool::elasticfs {

namespace {

class UringTransport;

struct Entry : Exchange, Operation {
  UringTransport* owner = nullptr;
  abi::UringHeaders* headers = nullptr;
  iovec buffers[2] = {};
  std::uint16_t queue = 0;
};

class UringTransport : public Transport {
 public:
  UringTransport(EventLoop& loop, Worker& worker, Receiver& receiver, int fd,
                 const std::vector<unsigned>& queues, unsigned depth)
      : loop_(loop),
        receiver_(receiver),
        fd_(fd),
        memory_(static_cast<unsigned>(queues.size()) * depth),
        entries_(queues.size() * depth) {
    for (unsigned i = 0; i < entries_.size(); ++i) {
      Entry& entry = entries_[i];
      entry.transport = this;
      entry.owner = this;
      entry.worker = &worker;
      entry.payload = memory_.payload(i);
      entry.queue = static_cast<std::uint16_t>(queues[i / depth]);
      entry.headers = reinterpret_cast<abi::UringHeaders*>(entry.payload - memory_.header_page);
      entry.buffers[0] = {entry.headers, sizeof *entry.headers};
      entry.buffers[1] = {entry.payload, payload_limit};
      entry.on_complete = [](Operation& self, int result, unsigned) {
        Entry& completed = static_cast<Entry&>(self);
        completed.owner->arrived(completed, result);
      };
    }
  }

  void start() override {
    for (Entry& entry : entries_) {
      io_uring_sqe* const submission = prepare(entry, abi::uring_register, 0);
      submission->addr = reinterpret_cast<std::uintptr_t>(entry.buffers);
      submission->len = 2;
    }
  }
  void reply(Exchange& exchange, std::span<const iovec> parts) override;
  unsigned pending() const override { return pending_; }

 private:
  io_uring_sqe* prepare(Entry& entry, std::uint32_t command, std::uint64_t commit_id);
  void arrived(Entry& entry, int result);
  void lose(int error);

  EventLoop& loop_;
  Receiver& receiver_;
  const int fd_;
  ExchangeMemory memory_;
  std::vector<Entry> entries_;
  unsigned pending_ = 0;
  bool lost_ = false;
};

io_uring_sqe* UringTransport::prepare(Entry& entry, std::uint32_t command,
                                      std::uint64_t commit_id) {
  io_uring_sqe* const submission = loop_.prepare(entry);
  io_uring_prep_rw(IORING_OP_URING_CMD, submission, fd_, nullptr, 0, 0);
  submission->cmd_op = command;
  const abi::UringCommand arguments{.commit_id = commit_id, .queue = entry.queue};
  // The wide half: <linux/io_uring.h> declares it as an array without a size.
  auto* const command_area = reinterpret_cast<std::byte*>(submission) + offsetof(io_uring_sqe, cmd);
  std::memset(command_area, 0, 80);
  std::memcpy(command_area, &arguments, sizeof arguments);
  return submission;
}

void UringTransport::arrived(Entry& entry, int result) {
  if (result < 0) return lose(-result);
  fuse_in_header header;
  std::memcpy(&header, entry.headers->message, sizeof header);
  // libfuse wants the message in one piece: the headers are put before the payload.
  const std::size_t payload =
      std::min<std::size_t>(entry.headers->entry.payload_size, payload_limit);
  const std::size_t whole = std::max<std::size_t>(header.len, sizeof header + payload);
  const std::size_t operation =
      std::min(whole - sizeof header - payload, sizeof entry.headers->operation);
  std::byte* const message = entry.payload - operation - sizeof header;
  std::memcpy(message, &header, sizeof header);
  std::memcpy(message + sizeof header, entry.headers->operation, operation);
  ++pending_;
  entry.unique = header.unique;
  receiver_.receive(entry, {message, sizeof header + operation + payload});
}

void UringTransport::reply(Exchange& exchange, std::span<const iovec> parts) {
  Entry& entry = static_cast<Entry&>(exchange);
  std::memcpy(entry.headers->message, parts[0].iov_base,
              std::min(parts[0].iov_len, sizeof(fuse_out_header)));
  std::size_t length = 0;
  for (const iovec& part : parts.subspan(1)) {
    const std::size_t size = std::min(part.iov_len, payload_limit - length);
    if (part.iov_base != entry.payload + length)
      std::memmove(entry.payload + length, part.iov_base, size);
    length += size;
  }
  entry.headers->entry.payload_size = static_cast<std::uint32_t>(length);
  --pending_;
  prepare(entry, abi::uring_commit_and_fetch, entry.headers->entry.commit_id);
}

void UringTransport::lose(int error) {
  if (std::exchange(lost_, true)) return;
  // Unmounting ends every entry this way; anything else leaves the device.
  if (error == ENOTCONN || error == ECONNABORTED || error == ECANCELED || error == ENODEV) return;
  log().warn("FUSE over io_uring is refused (errno {}): going on without it", error);
}

}  // namespace

std::unique_ptr<Transport> make_uring_transport(EventLoop& loop, Worker& worker, Receiver& receiver,
                                                int fd, unsigned first_queue, unsigned queue_step,
                                                unsigned queue_count, unsigned depth) {
  std::vector<unsigned> queues;
  for (unsigned queue = first_queue; queue < queue_count; queue += queue_step)
    queues.push_back(queue);
  return std::make_unique<UringTransport>(loop, worker, receiver, fd, queues, depth);
}

}  // namespace tidepool::elasticfs
