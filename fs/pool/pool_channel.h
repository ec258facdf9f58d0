// The data path of a pool for one event loop.
//
// Splits requests on a disk along its extent map and passes the pieces to the
// pool's store. Byte-granular: requests need not be aligned (a partial block is
// read, changed and written back). Reads beyond the disk's size give
// zeros (a file system clips them before); writes beyond it extend the disk.
//
// Guarantees: a first write allocates and becomes visible only when its data is
// on the store; a mapped block is rewritten in place and cannot fail for lack of
// space; overlapping partial writes to one block do not lose each other.
#pragma once

#include <memory>

#include "blockdev/block_store.h"
#include "fs/pool/pool.h"

namespace tidepool::pool {

class PoolChannel {
 public:
  static Result<std::unique_ptr<PoolChannel>> open(Pool& pool, EventLoop& loop);
  virtual ~PoolChannel() = default;
  // Loop thread only. The disk must be held until the request completes.
  // flush commits: `complete` is called on the loop's thread when it is stable
  // (at once for a VM of Durability::scratch).
  virtual void submit(Disk& disk, blockdev::IoRequest& request) = 0;
};

// One disk as a BlockStore of fixed size, for consumers that know only the
// waist. Holds the disk; keep the pool alive.
Result<std::shared_ptr<blockdev::BlockStore>> open_disk_store(Pool& pool, NodeId disk);

}  // namespace tidepool::pool
