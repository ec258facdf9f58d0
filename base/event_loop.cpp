#include "base/event_loop.h"

#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>

#include "base/log.h"

namespace tidepool {

namespace {

// The kernel refuses flags that it does not know with EINVAL: best first.
constexpr std::array single_thread_flags{
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
        IORING_SETUP_SUBMIT_ALL,                                                      // 6.1
    IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,  // 5.19
    0U,
};
constexpr std::array any_thread_flags{+IORING_SETUP_SUBMIT_ALL, 0U};

// More completions than this can wait: several requests' worth per submission
// entry are in flight before the kernel has to queue completions elsewhere.
constexpr unsigned completions_per_entry = 4;

int set_up_ring(io_uring& ring, const EventLoop::Options& options, unsigned flags) {
  io_uring_params params{};
  params.flags = flags | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED;
  if (options.wide_entries) params.flags |= IORING_SETUP_SQE128;
  params.cq_entries = options.entries * completions_per_entry;
  return io_uring_queue_init_params(options.entries, &ring, &params);
}

std::unexpected<Error> setup_failure(int error, const EventLoop::Options& options) {
  std::string what = "cannot set up an io_uring";
  if (error == ENOSYS || error == EPERM) {
    what += " (is it switched off: sysctl kernel.io_uring_disabled, a seccomp filter?)";
  } else if (error == ENOMEM) {
    what += " (raise the locked memory limit: ulimit -l)";
  } else if (error == EINVAL && options.wide_entries) {
    what += " with 128-byte entries (Linux 5.19 or later has them)";
  }
  return fail_errno(error, std::move(what));
}

void relax_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Result<std::unique_ptr<EventLoop>> EventLoop::create(const Options& options) {
  std::unique_ptr<EventLoop> loop(new EventLoop);
  int result = -EINVAL;
  const auto try_flags = [&](const auto& candidates) {
    for (const unsigned flags : candidates) {
      result = set_up_ring(loop->ring_, options, flags);
      if (result != -EINVAL) break;
    }
  };
  if (options.any_thread) {
    try_flags(any_thread_flags);
  } else {
    try_flags(single_thread_flags);
  }
  if (result < 0) return setup_failure(-result, options);
  loop->ring_ready_ = true;
  loop->batch_ = options.batch;
  loop->may_block_ = options.may_block;
  loop->spin_ = options.spin;
  loop->spin_budget_ = options.spin;

  loop->wakeup_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!loop->wakeup_) return fail_errno(errno, "cannot create an eventfd");
  loop->wakeup_operation_.loop = loop.get();
  loop->wakeup_operation_.on_complete = [](Operation& self, int, unsigned flags) {
    EventLoop& owner = *static_cast<Wakeup&>(self).loop;
    // Ends when the thread that armed it does (any_thread), or on overflow.
    if ((flags & IORING_CQE_F_MORE) == 0) owner.wakeup_armed_ = false;
    std::uint64_t value = 0;
    [[maybe_unused]] const auto got = ::read(owner.wakeup_.get(), &value, sizeof value);
  };
  return loop;
}

EventLoop::~EventLoop() {
  if (ring_ready_) io_uring_queue_exit(&ring_);
}

Result<> EventLoop::start_ring() {
  if (ring_started_) return {};
  // liburing 2.3 declares io_uring_enable_rings but does not export it.
  if (::syscall(SYS_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) <
      0) {
    return fail_errno(errno, "cannot start the io_uring");
  }
  ring_started_ = true;
  return {};
}

io_uring_sqe* EventLoop::prepare(Operation& operation) {
  // A failure shows again, and is dealt with, when the loop waits.
  if (ring_started_ && io_uring_sq_ready(&ring_) >= batch_) io_uring_submit(&ring_);
  io_uring_sqe* entry = io_uring_get_sqe(&ring_);
  while (entry == nullptr) {
    int result = -EBADF;
    if (start_ring()) result = io_uring_submit(&ring_);
    if (result == -EAGAIN || result == -EBUSY) {
      io_uring_get_events(&ring_);
      ::sched_yield();
    } else if (result < 0 && result != -EINTR) {
      // The ring itself is unusable: nothing that is in flight could ever end.
      log().critical("event loop: cannot submit to the io_uring: errno {}", -result);
      std::abort();
    }
    entry = io_uring_get_sqe(&ring_);
  }
  io_uring_sqe_set_data(entry, &operation);
  return entry;
}

void EventLoop::adopt(std::unique_ptr<AdoptableOperation> operation) {
  operation->adopter = this;
  operation->on_complete = [](Operation& self, int, unsigned) {
    auto& ended = static_cast<AdoptableOperation&>(self);
    std::erase_if(ended.adopter->adopted_, [&](const auto& entry) { return entry.get() == &ended; });
  };
  adopted_.push_back(std::move(operation));
}

void EventLoop::arm_wakeup() {
  if (wakeup_armed_) return;
  io_uring_prep_poll_multishot(prepare(wakeup_operation_), wakeup_.get(), POLLIN);
  wakeup_armed_ = true;
}

void EventLoop::wake() {
  if (!sleeping_.load()) return;
  const std::uint64_t one = 1;
  // Fails only when the counter is full: then a wake-up is on its way already.
  [[maybe_unused]] const auto written = ::write(wakeup_.get(), &one, sizeof one);
}

void EventLoop::stop() {
  stopping_.store(true);
  wake();
}

void EventLoop::post(std::function<void()> task) {
  // All under the lock: what the task does may end the loop's life, and it cannot
  // run before the lock is free.
  const std::lock_guard lock(posted_mutex_);
  posted_.push_back(std::move(task));
  if (!posted_pending_.exchange(true)) wake();
}

unsigned EventLoop::run_posted() {
  if (!posted_pending_.load()) return 0;
  {
    const std::lock_guard lock(posted_mutex_);
    posted_pending_.store(false);
    running_.swap(posted_);
  }
  const auto count = static_cast<unsigned>(running_.size());
  for (auto& task : running_) task();
  running_.clear();
  return count;
}

unsigned EventLoop::reap() {
  // Only what is ready now: completions that callbacks cause inline wait for
  // the next round, so that posted tasks get their turn.
  unsigned handled = 0;
  for (unsigned ready = io_uring_cq_ready(&ring_); ready > 0; --ready) {
    io_uring_cqe* entry = nullptr;
    if (io_uring_peek_cqe(&ring_, &entry) != 0) break;
    auto* const operation = static_cast<Operation*>(io_uring_cqe_get_data(entry));
    const int result = entry->res;
    const unsigned flags = entry->flags;
    io_uring_cq_advance(&ring_, 1);
    if (operation == nullptr) continue;
    if (operation != &wakeup_operation_) ++handled;
    operation->on_complete(*operation, result, flags);
  }
  return handled;
}

unsigned EventLoop::look() {
  unsigned found = looked_ ? 1 : 0;
  looked_ = false;
  for (LoopWatch* const watch : watches_) found += watch->look() ? 1 : 0;
  return found;
}

bool EventLoop::may_sleep() {
  bool may = true;
  for (LoopWatch* const watch : watches_) may = watch->may_sleep() && may;
  return may;
}

// True when something became ready before the time was over.
bool EventLoop::spin() {
  const auto end = last_activity_ + spin_budget_;
  while (io_uring_cq_ready(&ring_) == 0 && !posted_pending_.load() && !stopping_.load()) {
    if ((IO_URING_READ_ONCE(*ring_.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0) {
      io_uring_get_events(&ring_);
      continue;
    }
    looked_ = look() > 0;
    if (looked_) return true;
    if (std::chrono::steady_clock::now() >= end) return false;
    relax_cpu();
  }
  return true;
}

Result<> EventLoop::wait_for_completion() {
  using Clock = std::chrono::steady_clock;
  if (spin_budget_.count() > 0 && Clock::now() < last_activity_ + spin_budget_) {
    const int result = io_uring_submit_and_get_events(&ring_);
    if (result >= 0 && spin()) return {};
  }

  if (!may_sleep()) {
    io_uring_submit_and_get_events(&ring_);  // a failure shows again when it does sleep
    return {};
  }

  const auto began = spin_.count() > 0 ? Clock::now() : Clock::time_point{};
  sleeping_.store(true);
  int result = 0;
  while (!posted_pending_.load() && !stopping_.load()) {
    result = io_uring_submit_and_wait(&ring_, 1);
    if (result != -EINTR) break;
  }
  sleeping_.store(false);
  if (spin_.count() > 0) {
    if (Clock::now() - began < spin_) {
      spin_budget_ = spin_;
    } else {
      spin_budget_ /= 2;
      if (spin_budget_ < std::chrono::microseconds(1)) spin_budget_ = {};
    }
  }
  if (result == -EAGAIN || result == -EBUSY) {
    // Out of request memory, or completions overflow: handling some helps.
    io_uring_get_events(&ring_);
    ::sched_yield();
  } else if (result < 0 && result != -EINTR) {
    return fail_errno(-result, "cannot wait for the io_uring");
  }
  return {};
}

Result<unsigned> EventLoop::poll(bool wait) {
  if (auto started = start_ring(); !started) return std::unexpected(started.error());
  arm_wakeup();
  unsigned handled = run_posted();
  for (bool first = true; first || (wait && handled == 0 && !stopping_.load()); first = false) {
    if (wait && handled == 0 && io_uring_cq_ready(&ring_) == 0) {
      if (auto waited = wait_for_completion(); !waited) return std::unexpected(waited.error());
    } else {
      const int result = io_uring_submit_and_get_events(&ring_);
      if (result < 0 && result != -EINTR && result != -EAGAIN && result != -EBUSY) {
        return fail_errno(-result, "cannot submit to the io_uring");
      }
    }
    handled += reap();
    handled += run_posted();
    handled += look();
    arm_wakeup();
  }
  if (handled > 0 && spin_.count() > 0) last_activity_ = std::chrono::steady_clock::now();
  return handled;
}

Result<> EventLoop::run() {
  while (!stopping_.load()) {
    if (auto handled = poll(true); !handled) return std::unexpected(handled.error());
  }
  stopping_.store(false);
  return {};
}

}  // namespace tidepool
