// One request on a disk while it is under way.
//
// A small state machine over the pool's store: `pending` counts the pieces in
// flight; when it falls to zero `next` says what follows. Recycled by its channel,
// so that the vectors keep their memory and the common path allocates nothing.
#pragma once

#include <cstdint>
#include <vector>

#include "blockdev/block_store.h"
#include "blockdev/sync_channel.h"
#include "fs/pool/pool_impl.h"

namespace tidepool::pool {

class PoolChannelImpl;
struct PoolOp;

struct Piece : blockdev::IoRequest {  // one request to the pool's store
  std::vector<iovec> vectors;
  PoolOp* owner = nullptr;
};

struct PoolOp : RangeLock, SpaceWaiter {
  PoolChannelImpl* channel = nullptr;
  Disk* disk = nullptr;
  blockdev::IoRequest* request = nullptr;

  // What this step works on: the request's range, or an edge of it (bytes).
  std::uint64_t offset = 0, length = 0;

  bool holds_lock = false;
  bool entered = false;  // counted as in flight in the pool
  unsigned phase = 0;
  int error = 0;
  unsigned pending = 0;
  void (PoolChannelImpl::*then)(PoolOp&) = nullptr;  // when pending falls to zero

  std::vector<Extent> extents;  // what is mapped in the range
  std::vector<Extent> fresh;    // allocated by this write, or provisioned before: to be mapped
  std::vector<bool> allocated;  // of `fresh`: allocated here, so given back on error
  std::vector<Piece*> pieces;   // owned; reused
  std::size_t used_pieces = 0;
  blockdev::AlignedBuffer bounce;  // whole blocks, for what is not aligned
  unsigned edge = 0;               // next edge of a discard or zero to clear

  PoolOp* next_free = nullptr;

  PoolOp() = default;
  PoolOp(const PoolOp&) = delete;
  PoolOp& operator=(const PoolOp&) = delete;
  ~PoolOp() {
    for (Piece* piece : pieces) delete piece;
  }

  std::uint64_t first_block() const { return offset / block_size; }
  std::uint64_t end_block() const { return (offset + length + block_size - 1) / block_size; }
};

}  // namespace tidepool::pool
