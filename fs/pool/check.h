// Is a pool sound, and if not, what can be saved?
//
// Recovery is the judge: whatever it accepts is consistent (free space and accounts
// follow from the maps). Checked: both superblocks, every checkpoint page, the
// journal to its end, every record's bounds, double maps, and
// space held on the host that belongs to no disk (leaks).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "blockdev/block_store.h"
#include "fs/pool/pool.h"

namespace tidepool::pool {

struct CheckReport {
  std::vector<std::string> findings;  // what is wrong; empty: the pool is sound
  std::vector<std::string> losses;    // what a repair gives up
  std::vector<std::string> repaired;  // what was put right (repair only)
  std::uint64_t vms = 0, disks = 0, extents = 0;
  std::uint64_t used_bytes = 0;
  std::uint64_t leaked_bytes = 0;     // on the host, in free blocks; back at the next open
  std::uint64_t journal_records = 0;  // not yet in a checkpoint: the last close was not clean
};

// The store is exclusively the caller's. An error only when the pool cannot be read
// at all (no superblock left); everything else is in the report. With repair, the
// state as far as it could be read is written back and the report says what it lost.
// What cannot be proven to belong to a disk is lost: a disk may read zeros after a
// repair, but never what another one wrote.
Result<CheckReport> check_pool(blockdev::BlockStore& store, bool repair,
                               const Sabotage& sabotage = {});

}  // namespace tidepool::pool
