// From the bytes on the store to a PoolState.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "blockdev/sync_channel.h"
#include "fs/pool/pool_state.h"
#include "fs/pool/superblock.h"

namespace tidepool::pool {

struct Recovered {
  Superblock superblock;
  std::unique_ptr<PoolState> state;
  std::uint64_t journal_records = 0;  // replayed
  // With tolerant: what was wrong, and what is lost by going on without it.
  std::vector<std::string> findings;
  std::vector<std::string> losses;
};

// Which blocks of the pool are no data blocks.
PoolState::Layout layout_of(const Superblock& superblock);

// Reads both superblock slots; the newer valid one. Says by message what a store
// without one is: not a pool, damaged, or of a newer version.
Result<Superblock> read_superblock(blockdev::SyncChannel& channel, const std::string& name,
                                   std::uint64_t store_bytes, std::vector<std::string>& findings);

// Writes nothing. Strict (tolerant = false): the first damage is an error. Tolerant: each
// mapping in the result was there when the pool was last written, so no block shows
// what another disk wrote.
Result<Recovered> recover(blockdev::SyncChannel& channel, const std::string& name,
                          std::uint64_t store_bytes, bool tolerant, const Sabotage& sabotage = {});

// Free blocks that hold data on the store: a crash left them between freeing and
// punching, or between writing and mapping. In order, not touching each other.
Result<std::vector<Run>> stale_free_runs(blockdev::BlockStore& store,
                                         const BlockAllocator& allocator);

}  // namespace tidepool::pool
