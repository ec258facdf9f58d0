// A request of a chain's channel while it is under way.
//
// Owned by its channel, used on that channel's thread; kept and reused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "blockdev/chain/chain.h"
#include "blockdev/chain/chain_channel.h"

namespace tidepool::blockdev::chain {

// Consecutive blocks that are written alike.
struct Segment {
  std::uint64_t block = 0, count = 0;
  bool zero = false;
};

// A read or write of one layer, or of the base, that an op waits for.
struct PieceIo : IoRequest {
  ChainOp* owner = nullptr;
  iovec vector{};
};

struct ChainOp : RangeLock, Chain::HeldChange {
  ChainChannel* channel = nullptr;
  ChainOp* next_free = nullptr;
  IoRequest* request = nullptr;
  int error = 0;
  bool holds_lock = false;
  bool in_flight = false;
  bool has_slots = false;
  bool committed = false;  // waited for a commit once, to have free slots
  bool reading = false;
  unsigned epoch = 0;  // of the chain's reads
  unsigned tries = 0;
  unsigned pending = 0;
  void (ChainChannel::*then)(ChainOp&) = nullptr;

  // The blocks [first, last] of the request, and their bytes: the request's own
  // buffer, or `bounce`; of a clear, only the blocks covered in part, one or two.
  std::uint64_t first = 0, last = 0;
  bool head_partial = false, tail_partial = false;
  bool edges_only = false;
  std::byte* data = nullptr;
  AlignedBuffer bounce;

  std::vector<ChainPiece> pieces;
  std::vector<std::uint64_t> expected;  // hash of each block of the data pieces, in order
  std::vector<Segment> segments;
  std::vector<SlotRun> runs;
  std::vector<std::uint64_t> hashes;  // of the blocks that are written to the runs
  std::vector<std::unique_ptr<PieceIo>> ios;
  std::size_t used_ios = 0;

  bool partial() const { return head_partial || tail_partial; }
  std::byte* bytes_of(std::uint64_t block) const {
    if (edges_only) return data + (block == first ? 0 : block_bytes);
    return data + (block - first) * block_bytes;
  }
};

}  // namespace tidepool::blockdev::chain
