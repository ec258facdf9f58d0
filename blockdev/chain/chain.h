// A COW chain as one disk: layers over an optional base, read through one merged
// index, written to the top layer only.
//
// A BlockStore of byte grain: any offset and length; parts of a block are read,
// changed and written anew. Reads check the hash of every block. A write goes to
// free slots of the top layer and is mapped when it is there, so that a crash
// shows a block's old content or the new one, and a flush makes the new one stable.
//
// Discard and zero are one here: the blocks read as zeros and take no slots. So do
// blocks of zeros that are written.
//
// Space of what was discarded goes back to the host when the discard is stable.
//
// Threads: a channel per loop, any number. lock() guards the index, the layers'
// maps and the range locks; it is never held during I/O. Commits run on a thread
// of the chain's own, checkpoints and merges one at a time (administer()).
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "blockdev/block_store.h"
#include "blockdev/chain/chain_index.h"
#include "blockdev/chain/layer_file.h"
#include "blockdev/range_locks.h"

namespace tidepool::blockdev::chain {

inline constexpr std::size_t most_layers = 16'384;  // of a chain, those merged meanwhile included

struct ChainOptions {
  bool read_only = false;
  bool verify = true;  // off only to measure what the hashes cost
  // A commit comes at the latest when this many slots wait for one to be free; by default
  // half of those that a layer has beside its disk's blocks, and at most a GiB. Each commit
  // writes out what was written since the last one: few are much cheaper than many.
  std::optional<std::uint64_t> most_freed;
};

class Chain : public BlockStore, public std::enable_shared_from_this<Chain> {
 public:
  // `layers` from the lowest to the top, at least one; `base` holds what no layer
  // does, and may be null. Writable only if the top layer is active.
  static Result<std::shared_ptr<Chain>> assemble(std::shared_ptr<BlockStore> base,
                                                 std::vector<std::unique_ptr<LayerFile>> layers,
                                                 const ChainOptions& options);
  ~Chain() override;  // commits; a failure is logged

  const std::string& name() const override { return name_; }
  Geometry geometry() const override;
  Result<std::unique_ptr<IoChannel>> open_channel(EventLoop& loop) override;
  Result<> locate(std::uint64_t offset, std::uint64_t length,
                  const std::function<bool(const Range&)>& sink) override;

  // A checkpoint while requests come. All three run on the commit thread.
  struct Checkpoint {
    std::string name;
    MergeState merge = MergeState::none;  // of the old top: none or goes_down
    // Makes the empty active layer that goes on top of `old`.
    std::function<Result<std::unique_ptr<LayerFile>>(LayerFile& old)> prepare;
    // Called when the old top is sealed and stable: makes the new one findable.
    std::function<Result<>(LayerFile& old, LayerFile& top)> publish;
  };
  // Seals the top layer and goes on in a new one, at one instant: changes that come
  // then wait until those before have ended, no longer; flushes wait for `publish`.
  // Where sealing or publishing fails, no later flush succeeds. Blocking, any thread.
  // Returns for how long changes were held.
  using Held = std::chrono::microseconds;
  Result<Held> checkpoint(Checkpoint asked);

  // `done` is called once what was mapped before is stable, on the commit thread.
  void commit_async(std::function<void(int error)> done);
  Result<> commit();  // blocking

  // --- for channels and tools ---
  std::mutex& lock() { return mutex_; }
  const ChainOptions& options() const { return options_; }
  ChainIndex& index() { return index_; }    // under lock()
  RangeLocks& range_locks() { return range_locks_; }  // under lock()
  LayerFile& layer(std::uint32_t number) { return *layers_[number]; }
  LayerFile& top() { return *layers_[top_number()]; }  // stays it while a change is in flight
  std::uint32_t top_number() const { return top_number_.load(); }
  std::vector<std::uint32_t> order();  // the numbers of the layers, from the lowest to the top
  BlockStore* base() { return base_.get(); }
  std::uint64_t base_size() const { return base_size_.load(); }
  // Makes blocks read as zeros, at the least cost; under lock().
  void clear(std::uint64_t block, std::uint64_t count);
  void wake_committer();
  bool is_commit_due();  // too many slots wait for one; under lock()

  // Each change is in flight between these; both under lock(). False: a checkpoint
  // is about to come, `resume` is called (under lock()) when it is there.
  struct HeldChange {
    void (*resume)(HeldChange& self) = nullptr;
    HeldChange* next = nullptr;
  };
  bool enter(HeldChange& change);
  void leave();
  // Each read is in flight between these, from its look-up on; begin_read() under
  // lock(), its answer goes to end_read().
  unsigned begin_read();
  void end_read(unsigned epoch) { readers_[epoch].fetch_sub(1); }

  // --- for what changes the layers ---
  // Held by what makes checkpoints and merges. busy: another one runs.
  Result<std::unique_lock<std::mutex>> administer();
  // Another number for the layer, under which all its slots can be used: a layer that
  // merges takes more of them than it had. trim() when it does not take any more.
  Result<std::uint32_t> widen(std::uint32_t number);
  // The layer, to which nothing in the index leads any more, leaves the chain.
  // Waits until no read can be using it.
  void retire(std::uint32_t number);
  // Nothing stands on the base's former content any more, which is now this large;
  // `keeper` has its lock.
  void base_changed(std::uint64_t size, std::shared_ptr<BlockStore> keeper);
  BlockStore* locked_base() { return base_keeper_ ? base_keeper_.get() : base_.get(); }

 private:
  Chain(std::shared_ptr<BlockStore> base, std::vector<std::unique_ptr<LayerFile>> layers,
        const ChainOptions& options);
  void commit_loop();
  Result<> commit_top();
  Result<Held> make_checkpoint(const Checkpoint& asked);
  Result<Held> switch_top(std::unique_ptr<LayerFile> fresh);
  std::unexpected<Error> too_many_layers() const;
  void wait_for_readers();
  void punch_while_idle();

  const ChainOptions options_;
  const std::shared_ptr<BlockStore> base_;
  std::atomic<std::uint64_t> base_size_;
  std::shared_ptr<BlockStore> base_keeper_;  // guarded by administer()
  const std::string name_;  // of the top layer's file when the chain was opened
  const std::uint64_t size_;
  std::vector<std::shared_ptr<LayerFile>> layers_;  // by number; never reallocated
  std::atomic<std::uint32_t> top_number_;
  std::mutex administration_;  // before all others
  std::mutex mutex_;
  std::vector<std::uint32_t> order_;  // guarded by mutex_
  std::array<std::atomic<std::uint64_t>, 2> readers_{};
  unsigned epoch_ = 0;  // of reads that begin now; guarded by mutex_
  ChainIndex index_;
  RangeLocks range_locks_;
  std::uint64_t in_flight_ = 0;  // changes
  bool switching_ = false;
  HeldChange* held_ = nullptr;

  std::mutex requests_mutex_;  // guards all below; nothing is taken under it
  std::condition_variable requests_changed_;
  std::vector<std::function<void(int)>> waiting_;
  std::deque<std::pair<Checkpoint, std::promise<Result<Held>>>> checkpoints_;
  bool wanted_ = false, stopping_ = false, drained_ = false;
  std::optional<Error> unpublished_;  // the commit thread's: a checkpoint went wrong
  std::thread committer_;
};

}  // namespace tidepool::blockdev::chain
