// One thread of elasticfs: a loop, its transports, its channel into the pool.
#pragma once

#include <memory>
#include <thread>
#include <vector>

#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "fs/fuse/transport.h"
#include "fs/pool/pool_channel.h"

namespace tidepool::elasticfs {

struct WorkerOptions {
  unsigned classic_exchanges = 64;
  bool wide_entries = false;  // for FUSE over io_uring
  std::chrono::microseconds spin{0};
};

class Worker {
 public:
  // `fd`: this worker's own descriptor of the FUSE connection.
  static Result<std::unique_ptr<Worker>> create(pool::Pool& pool, Receiver& receiver, UniqueFd fd,
                                                const WorkerOptions& options);
  ~Worker() { stop(); }

  void start();  // the thread
  // Returns when the thread has ended: no request is under way any more, or 5 s
  // have passed (an aborted connection, a store that hangs).
  void stop();
  // Takes requests from the kernel's queues, too (any thread; once).
  void serve_queues(unsigned first, unsigned step, unsigned count, unsigned depth);

  EventLoop& loop() { return *loop_; }
  pool::PoolChannel& channel() { return *channel_; }

 private:
  Worker(Receiver& receiver, UniqueFd fd) : receiver_(receiver), fd_(std::move(fd)) {}
  void run();
  unsigned pending() const;

  Receiver& receiver_;
  UniqueFd fd_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<pool::PoolChannel> channel_;
  std::unique_ptr<Transport> classic_, queues_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace tidepool::elasticfs
