// One layer in its file: opening and recovery, commit, sealing. The thin shell
// around LayerMap and layer_format.
//
// Data blocks are read and written by the chain's channels, straight on store();
// this class moves everything else, with blocking calls.
//
// Threads: what takes the chain's lock may be called from any thread, one at a time
// by a lock of its own; the chain's is held only around the map, never during I/O.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "blockdev/block_store.h"
#include "blockdev/chain/layer_format.h"
#include "blockdev/chain/layer_map.h"
#include "blockdev/sync_channel.h"

namespace tidepool::blockdev::chain {

// What a test may break on purpose (each must turn a crash test red).
struct Sabotage {
  bool skip_data_barrier = false;     // the journal may speak of data that is not stable
  bool skip_journal_barrier = false;  // a flush may return before its batch is stable
};

// The newer valid header of the two slots, which `slots` holds one behind the other;
// `name` is for messages.
Result<LayerHeader> read_header(std::span<const std::byte> slots, const std::string& name);

class LayerFile {
 public:
  // Writes an empty, active layer to `store`, which must be header.file_bytes()
  // large and hold zeros; stable when it returns.
  static Result<std::unique_ptr<LayerFile>> create(std::shared_ptr<BlockStore> store,
                                                   LayerHeader header);
  // Reads the header and the map; an active layer's journal is replayed. Writes nothing.
  // `loop`: to read by (SyncChannel::make_loop); null: the layer makes one for itself.
  static Result<std::unique_ptr<LayerFile>> open(std::shared_ptr<BlockStore> store,
                                                 EventLoop* loop = nullptr);

  const LayerHeader& header() const { return header_; }
  LayerHeader header_now() const {  // a copy, while a commit may change it
    const std::lock_guard io(io_mutex_);
    return header_;
  }
  // The file's name, for messages; thread-safe.
  std::string name() const;
  void set_name(std::string name);
  BlockStore& store() { return *store_; }
  BlockStore& locked_store() { return writable_ ? *writable_ : *store_; }  // has the file's lock
  LayerMap& map() { return map_; }  // guarded by the chain's lock
  const LayerMap& map() const { return map_; }
  std::uint64_t data_offset(std::uint64_t slot) const {  // bytes, in the file
    return data_begin_ + slot * block_bytes;
  }

  // Everything that was mapped before is stable afterwards. After a failure what is
  // stable is not known: every later commit and seal fails, too.
  Result<> commit(std::mutex& chain_lock);
  // Commits and notes where the journal ends, so that a part of it that is lost
  // later is noticed. The layer may be changed again afterwards.
  Result<> close(std::mutex& chain_lock);
  // Commits, writes the whole map, and makes the layer read-only for good.
  // `merge`: none or goes_down.
  Result<> seal(std::mutex& chain_lock, const std::string& name,
                MergeState merge = MergeState::none);
  // Gives discarded space back to the host, some of it. False: nothing is left.
  Result<bool> punch(std::mutex& chain_lock);

  // --- merging: a sealed layer takes blocks of another one ---

  // From here on map() may be changed and committed. `state`: takes_parent or
  // takes_child; stable when it returns. `writable` is this layer's file. One that
  // was in this state before goes on.
  Result<> begin_merge(std::mutex& chain_lock, std::shared_ptr<BlockStore> writable,
                       MergeState state, const Uuid& with);
  // Sealed again, with what `edit` changes in the header, at one instant.
  Result<> finish_merge(std::mutex& chain_lock, const std::function<void(LayerHeader&)>& edit);
  // An active layer stands on another parent.
  Result<> set_parent(const ParentReference& parent);
  // A sealed layer's hashes for the slots [slot, slot + count).
  Result<> load_hashes(std::mutex& chain_lock, std::uint64_t slot, std::uint64_t count);

  Sabotage sabotage;  // set before the first use

 private:
  LayerFile(std::shared_ptr<BlockStore> store, LayerHeader header);
  Result<> read_index();
  struct NumberedSector {
    std::uint64_t number = 0;
    HashSector hashes{};
  };
  Result<std::vector<NumberedSector>> read_hashes(std::uint64_t first, std::uint64_t end);
  void install(const std::vector<NumberedSector>& sectors);
  Result<> replay_journal();
  Result<> write_map(std::mutex& chain_lock, LayerHeader& next);
  Result<> write_header(LayerHeader next);
  void release_slots(std::mutex& chain_lock);
  Result<> commit_locked(std::mutex& chain_lock);
  Result<> close_locked(std::mutex& chain_lock);
  Result<> write_sealed(std::mutex& chain_lock, LayerHeader next);
  Result<> connect(BlockStore& store);
  void disconnect() { channel_.reset(); }
  Result<> settle(Result<> done);
  Result<> append_batch(std::span<const std::byte> records);
  Result<> barrier();
  Error named(Error error) const;

  const std::shared_ptr<BlockStore> store_;
  std::shared_ptr<BlockStore> writable_;  // since it began to merge
  mutable std::mutex name_mutex_;  // guards name_; nothing is taken under it
  std::string name_;
  mutable std::mutex io_mutex_;  // guards channel_, header_, the journal's place; taken before the chain's
  std::unique_ptr<SyncChannel> channel_;  // null where nothing needs it: a chain has many layers
  LayerHeader header_;
  std::uint64_t data_begin_ = 0;
  std::uint64_t journal_at_ = 0;  // bytes used of the journal
  std::uint64_t next_batch_ = 1;
  std::optional<Error> failed_;
  LayerMap map_;
};

}  // namespace tidepool::blockdev::chain
