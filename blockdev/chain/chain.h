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
// Limit: slots that were given up serve later writes, but are not punched on the host.
//
// Threads: a channel per loop, any number. lock() guards the index, the layers'
// maps and the range locks; it is never held during I/O. Commits run on a thread
// of the chain's own.
#pragma once

#include <condition_variable>
#include <functional>
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

struct ChainOptions {
  bool read_only = false;
  bool verify = true;  // off only to measure what the hashes cost
  // A commit comes at the latest when this many slots wait for one to be free.
  std::uint64_t most_freed = std::uint64_t{1} << 14;
};

class Chain : public BlockStore, public std::enable_shared_from_this<Chain> {
 public:
  // `layers` from the lowest to the top, at least one; `base` holds what no layer
  // does, and may be null. Writable only if the top layer is active.
  static Result<std::shared_ptr<Chain>> assemble(std::shared_ptr<BlockStore> base,
                                                 std::vector<std::unique_ptr<LayerFile>> layers,
                                                 const ChainOptions& options);
  ~Chain() override;  // commits; a failure is logged

  const std::string& name() const override { return layers_.back()->name(); }
  Geometry geometry() const override;
  Result<std::unique_ptr<IoChannel>> open_channel(EventLoop& loop) override;
  Result<> locate(std::uint64_t offset, std::uint64_t length,
                  const std::function<bool(const Range&)>& sink) override;

  // `done` is called once what was mapped before is stable, on the commit thread.
  void commit_async(std::function<void(int error)> done);
  Result<> commit();  // blocking

  // --- for channels and tools ---
  std::mutex& lock() { return mutex_; }
  const ChainOptions& options() const { return options_; }
  ChainIndex& index() { return index_; }    // under lock()
  RangeLocks& range_locks() { return range_locks_; }  // under lock()
  LayerFile& layer(std::uint32_t number) { return *layers_[number]; }
  std::uint32_t layers() const { return static_cast<std::uint32_t>(layers_.size()); }
  LayerFile& top() { return *layers_.back(); }
  std::uint32_t top_number() const { return layers() - 1; }
  BlockStore* base() { return base_.get(); }
  std::uint64_t base_size() const { return base_size_; }
  // Makes blocks read as zeros, at the least cost; under lock().
  void clear(std::uint64_t block, std::uint64_t count);
  void wake_committer();

 private:
  Chain(std::shared_ptr<BlockStore> base, std::vector<std::unique_ptr<LayerFile>> layers,
        const ChainOptions& options);
  void commit_loop();

  const ChainOptions options_;
  const std::shared_ptr<BlockStore> base_;
  const std::uint64_t base_size_;
  std::vector<std::unique_ptr<LayerFile>> layers_;
  std::mutex mutex_;
  ChainIndex index_;
  RangeLocks range_locks_;

  std::mutex requests_mutex_;  // guards the two below; nothing is taken under it
  std::condition_variable requests_changed_;
  std::vector<std::function<void(int)>> waiting_;
  bool wanted_ = false, stopping_ = false;
  std::thread committer_;
};

}  // namespace tidepool::blockdev::chain
