// The pool's working parts, shared by Pool, its commit thread and its channels.
//
// Locks, in this order:
//   commit_mutex  one commit, checkpoint, release or grow at a time; held over I/O
//   mutex         the state and all below it; held for memory work only
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "blockdev/sync_channel.h"
#include "fs/pool/pool.h"
#include "fs/pool/pool_state.h"
#include "fs/pool/recovery.h"

namespace tidepool::pool {

// A request that waits for freed blocks to come back.
struct SpaceWaiter {
  void (*resume)(SpaceWaiter& self) = nullptr;  // any thread, under `mutex`
  SpaceWaiter* next = nullptr;
};

class PoolImpl {
 public:
  PoolImpl(std::shared_ptr<blockdev::BlockStore> store, const PoolOptions& options,
           std::unique_ptr<blockdev::SyncChannel> channel, Recovered recovered);
  ~PoolImpl();

  // First checkpoint (so that nothing torn is ever appended to), then the thread.
  Result<> start();
  Result<> stop();  // clean close

  // --- durability (committer.cpp) ---
  Result<> commit();
  void commit_async(std::function<void(int error)> done);
  void wake();  // the thread: something to do
  Result<> release(bool& progress);
  Result<> release_all();
  Result<> grow(std::uint64_t size);

  // --- requests in flight, so that no block is reused under one ---
  // Under `mutex`; the result goes to leave().
  unsigned enter() {
    in_flight_[phase_].fetch_add(1, std::memory_order_relaxed);
    return phase_;
  }
  void leave(unsigned phase) {
    if (in_flight_[phase].fetch_sub(1) == 1 && draining_hint_.load()) wake();
  }

  void wait_for_space(SpaceWaiter& waiter) {  // under `mutex`
    waiter.next = space_waiters_;
    space_waiters_ = &waiter;
  }
  bool failed() const { return failed_.load(std::memory_order_acquire); }
  bool background() const { return thread_.joinable(); }

  std::shared_ptr<blockdev::BlockStore> store;
  const PoolOptions options;
  mutable std::mutex mutex;
  std::unique_ptr<PoolState> state;  // guarded by mutex
  bool unflushed_data = false;       // guarded by mutex: writes completed since the last flush

  const Uuid& uuid() const { return uuid_; }
  std::uint64_t commits() const { return commits_; }
  std::uint64_t checkpoints() const { return checkpoints_; }
  std::uint64_t journal_bytes() const { return journal_bytes_; }
  std::uint64_t recovered_records() const { return recovered_records_; }

 private:
  using Pages = std::vector<std::vector<std::byte>>;

  void run();
  void serve_commits();
  Result<> commit_locked();
  Pages snapshot() const;  // under mutex
  // Applies `change` to the state and makes all of it durable as a checkpoint.
  Result<> checkpoint_locked(bool clean, const std::function<void()>& change);
  Result<> write_checkpoint(const Pages& pages, bool clean);
  Result<> write_superblock(const Superblock& superblock);
  Result<> append_batch(const std::vector<std::byte>& records);
  Result<> note_failure(Result<> result);
  void quarantine_stale_free_space();

  std::mutex commit_mutex_;
  std::unique_ptr<blockdev::SyncChannel> channel_;  // guarded by commit_mutex_
  const Uuid uuid_;                                 // read without a lock
  Superblock superblock_;                           // guarded by commit_mutex_
  std::uint64_t journal_used_ = 0;                  // guarded by commit_mutex_
  std::uint64_t next_batch_ = 0;                    // guarded by commit_mutex_

  // Freed blocks on their way back; guarded by commit_mutex_.
  std::vector<Run> committed_;  // un-mapping is durable
  std::vector<Run> draining_;   // waiting for requests of the phase before

  std::array<std::atomic<std::uint64_t>, 2> in_flight_{};
  unsigned phase_ = 0;  // guarded by mutex
  std::atomic<bool> draining_hint_{false};
  SpaceWaiter* space_waiters_ = nullptr;  // guarded by mutex

  std::thread thread_;
  std::condition_variable wakeup_;
  std::mutex requests_mutex_;  // leaf: guards the next three
  std::vector<std::function<void(int)>> commit_requests_;
  bool woken_ = false;
  bool stopping_ = false;

  std::atomic<bool> failed_{false};
  Error failure_;
  std::atomic<std::uint64_t> commits_{0}, checkpoints_{0}, journal_bytes_{0};
  std::uint64_t recovered_records_ = 0;
};

}  // namespace tidepool::pool
