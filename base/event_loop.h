// One event loop per thread, on one io_uring.
//
// An Operation is an intrusive completion slot: its owner embeds it, asks the
// loop for a submission entry bound to it, and is called back exactly once per
// completion on the loop's thread. Nothing is allocated on this path.
//
// Submission entries are collected and handed to the kernel in one
// io_uring_enter when the loop next waits (or when the ring is full), so a
// burst of requests costs one system call.
//
// Adaptive spinning: after activity the loop polls for up to `spin` before it
// sleeps, which saves two context switches on a request-response path. 0 = off.
//
// Limits: timers are coarse (kernel timeouts); no priorities.
#pragma once

#include <liburing.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace tidepool {

struct Operation {
  // result: the CQE's res (>= 0, or -errno); flags: the CQE's flags.
  void (*on_complete)(Operation& self, int result, unsigned flags) = nullptr;
};

class EventLoop {
 public:
  struct Options {
    unsigned entries = 512;     // submission entries, rounded up to a power of two
    bool wide_entries = false;  // 128-byte submission entries (FUSE over io_uring needs them)
    std::chrono::microseconds spin{0};
  };

  static Result<std::unique_ptr<EventLoop>> create(const Options& options);
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // A zeroed-by-prep submission entry whose completion calls `operation`.
  // Caller fills it with an io_uring_prep_* (which must not set user_data).
  // Loop thread only. Never null: a full ring is submitted first.
  io_uring_sqe* prepare(Operation& operation);

  // Runs until stop(). The first thread that calls run() or poll() owns the loop.
  Result<> run();
  // Submits what was prepared, completes what is ready; with wait = true blocks
  // for at least one completion. Returns the number of completions handled.
  Result<unsigned> poll(bool wait);

  // Thread-safe.
  void stop();
  void post(std::function<void()> task);  // runs on the loop's thread

  io_uring& ring() { return ring_; }  // for registrations (files, buffers)

 private:
  EventLoop() = default;
  unsigned reap();
  Result<> arm_wakeup();
  void run_posted();

  io_uring ring_{};
  bool ring_ready_ = false;
  std::chrono::microseconds spin_{0};
  UniqueFd wakeup_;  // eventfd that post() and stop() write
  std::uint64_t wakeup_value_ = 0;
  Operation wakeup_operation_;
  bool wakeup_armed_ = false;
  std::atomic<bool> stopping_{false};
  std::mutex posted_mutex_;  // guards posted_
  std::vector<std::function<void()>> posted_;
};

}  // namespace tidepool
