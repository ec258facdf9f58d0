// How requests of the kernel arrive and how replies go back.
//
// libfuse decodes messages and builds replies; moving them is the transport's.
// Two exist: the classic one reads and writes /dev/fuse, the io_uring one
// (Linux 6.14) exchanges them in the ring that also does the pool's I/O. Both
// hand out Exchanges: one request with the page-aligned memory its data travels
// in, so that a WRITE goes to the pool, and a READ comes from it, uncopied.
//
// Everything here happens on the worker's loop thread.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/event_loop.h"
#include "blockdev/block_store.h"

struct fuse_req;

namespace tidepool::elasticfs {

class Transport;
class Worker;
struct OpenDisk;

// The largest READ or WRITE; the kernel's limit without extra memory accounting.
inline constexpr std::size_t payload_limit = 1024 * 1024;  // bytes

// One request on its way to its one reply. Kept by the transport and reused: the
// data path allocates nothing. The part below the line belongs to the operation
// that answers later (operations_data.cpp).
struct Exchange : blockdev::IoRequest {
  Transport* transport = nullptr;
  Worker* worker = nullptr;
  std::byte* payload = nullptr;  // page-aligned, payload_limit bytes
  std::uint64_t unique = 0;      // the kernel's number of the request
  bool is_init = false;          // the first request of the connection

  // --- the operation's ---
  fuse_req* request = nullptr;
  OpenDisk* disk = nullptr;
  iovec data{};
  std::uint64_t argument = 0;
  void (*then)(Exchange& self, int error) = nullptr;

  // The one being answered on this thread: libfuse's replies carry no hint which
  // it is. Set by the transport around decoding, by asynchronous operations
  // before their reply.
  static thread_local Exchange* current;
};

// What a transport hands its requests to: one whole message, header first.
class Receiver {
 public:
  virtual void receive(Exchange& exchange, std::span<std::byte> message) = 0;
  virtual void disconnected() = 0;  // unmounted or aborted: no request will follow

 protected:
  ~Receiver() = default;
};

class Transport {
 public:
  virtual ~Transport() = default;
  // Begins to take requests.
  virtual void start() = 0;
  // The reply to `exchange`, header in parts[0]; parts may point into its
  // payload, and are not needed any more when it returns. The exchange is the
  // transport's again afterwards.
  virtual void reply(Exchange& exchange, std::span<const iovec> parts) = 0;
  // Requests handed out and not yet answered.
  virtual unsigned pending() const = 0;
};

// Reads and writes `fd`, /dev/fuse in non-blocking mode (borrowed), in bursts.
std::unique_ptr<Transport> make_classic_transport(EventLoop& loop, Worker& worker,
                                                  Receiver& receiver, int fd, unsigned exchanges);

// Serves the kernel's queues (one per possible CPU) from `first_queue` in steps
// of `queue_step`, below `queue_count`, with `depth` exchanges each. The loop
// must have wide entries, and INIT must have agreed on it.
std::unique_ptr<Transport> make_uring_transport(EventLoop& loop, Worker& worker, Receiver& receiver,
                                                int fd, unsigned first_queue, unsigned queue_step,
                                                unsigned queue_count, unsigned depth);

// Page-aligned memory for `count` exchanges: each a page for headers, then its
// payload. Huge pages where the system has them; touched only as far as used.
class ExchangeMemory {
 public:
  explicit ExchangeMemory(unsigned count);
  ~ExchangeMemory();
  ExchangeMemory(const ExchangeMemory&) = delete;
  ExchangeMemory& operator=(const ExchangeMemory&) = delete;

  static constexpr std::size_t header_page = 4096;  // bytes before each payload
  std::byte* payload(unsigned index) const {
    return base_ + index * (header_page + payload_limit) + header_page;
  }

 private:
  std::byte* base_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace tidepool::elasticfs
