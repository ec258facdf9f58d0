// One event loop per thread, on one io_uring.
//
// An Operation is an intrusive completion slot: its owner embeds it, asks the
// loop for a submission entry bound to it, and is called back exactly once per
// completion on the loop's thread. Nothing is allocated on this path.
//
// Submission entries are collected and handed to the kernel a few at a time
// (Options::batch), and the rest when the loop next waits. A whole burst in one
// io_uring_enter costs fewer system calls, but lets the device idle until its
// last entry is prepared: measured on virtio-blk, 4 KiB random at depth 32, a
// batch of 4 moves a sixth more requests than no limit, for 5 % more CPU each.
//
// Adaptive spinning: after activity the loop polls for up to `spin` before it
// sleeps, which saves two context switches on a request-response path. 0 = off.
// The time it polls shrinks while the waits prove longer than `spin`, and comes
// back with the first shorter one, so that an idle loop costs nothing.
//
// A Watch is what the loop looks at in each round and while it spins: something that a store
// to memory announces, such as a virtqueue. Before the loop sleeps each is asked, so that who
// stores there is told to make itself heard.
//
// The ring belongs to the thread that runs it, and starts with its first run()
// or poll(); create() and the first prepare() may happen on another thread.
//
// Limits: timers are coarse (kernel timeouts); no priorities; no linked entries
// (a batch may end between them); poll() and run() must not be called from
// within a completion.
#pragma once

#include <liburing.h>

#include <atomic>
#include <chrono>
#include <cstdint>
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

// One that may be in the kernel's hands when its owner goes (EventLoop::adopt).
struct AdoptableOperation : Operation {
  virtual ~AdoptableOperation() = default;
  class EventLoop* adopter = nullptr;
};

// Called on the loop's thread; neither call may watch() or unwatch().
class LoopWatch {
 public:
  // Does what there is to do, without waiting; true: there was something.
  virtual bool look() = 0;
  // False: there is something to do already, and look() is due. True: the loop is woken, by
  // one of its operations, when there is.
  virtual bool may_sleep() = 0;

 protected:
  ~LoopWatch() = default;
};

class EventLoop {
 public:
  struct Options {
    unsigned entries = 512;     // submission entries, rounded up to a power of two
    bool wide_entries = false;  // 128-byte submission entries (FUSE over io_uring needs them)
    std::chrono::microseconds spin{0};
    unsigned batch = 4;  // entries that are collected before they are submitted
    // One thread at a time instead of one for good; costs some speed.
    bool any_thread = false;
    // Who runs the loop serves nobody who could not wait: a channel may make a system
    // call that blocks for a moment instead of submitting it.
    bool may_block = false;
  };

  static Result<std::unique_ptr<EventLoop>> create(const Options& options);
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // A zeroed-by-prep submission entry whose completion calls `operation`.
  // Caller fills it with an io_uring_prep_* (which must not set user_data).
  // Loop thread only. Never null: a full ring is submitted first.
  io_uring_sqe* prepare(Operation& operation);

  // Takes an operation whose completion is still to come, one, and frees it then,
  // without calling its owner, or at the loop's own end. Loop thread only.
  void adopt(std::unique_ptr<AdoptableOperation> operation);

  // Until unwatch(). Loop thread only.
  void watch(LoopWatch& what) { watches_.push_back(&what); }
  void unwatch(LoopWatch& what) { std::erase(watches_, &what); }

  // Runs until stop(), also one that came before. The first thread that calls
  // run() or poll() owns the loop.
  Result<> run();
  // Submits what was prepared, completes what is ready, runs what was posted;
  // with wait = true blocks until there was something to do. Returns the number of
  // completions, posted tasks and looks that were not in vain (0 with wait only after stop()).
  Result<unsigned> poll(bool wait);

  // Thread-safe.
  void stop();
  void post(std::function<void()> task);  // runs on the loop's thread

  bool may_block() const { return may_block_; }
  io_uring& ring() { return ring_; }  // for registrations (files, buffers)

 private:
  EventLoop() = default;
  Result<> start_ring();
  Result<> wait_for_completion();
  bool spin();
  unsigned reap();
  void arm_wakeup();
  void wake();
  unsigned run_posted();
  unsigned look();
  bool may_sleep();

  io_uring ring_{};
  bool ring_ready_ = false;
  bool ring_started_ = false;
  unsigned batch_ = 1;
  bool may_block_ = false;
  std::chrono::microseconds spin_{0};
  std::chrono::nanoseconds spin_budget_{0};  // what is spun now: 0 .. spin_
  std::chrono::steady_clock::time_point last_activity_;
  UniqueFd wakeup_;  // eventfd that post() and stop() write while the loop sleeps
  struct Wakeup : Operation {
    EventLoop* loop = nullptr;
  } wakeup_operation_;
  bool wakeup_armed_ = false;
  std::vector<std::unique_ptr<AdoptableOperation>> adopted_;
  std::vector<LoopWatch*> watches_;
  bool looked_ = false;  // while it spun there was something
  // Sleeper and waker each set their flag and then look at the other's: one of
  // them always sees it (hence sequentially consistent).
  std::atomic<bool> sleeping_{false};
  std::atomic<bool> posted_pending_{false};
  std::atomic<bool> stopping_{false};
  std::mutex posted_mutex_;  // guards posted_
  std::vector<std::function<void()>> posted_;
  std::vector<std::function<void()>> running_;  // kept for its memory
};

}  // namespace tidepool
