// A load on a BlockStore: one pattern at one depth for some seconds, through a
// channel on an event loop of its own, as a VM's queue would do it.
//
// Limits: one loop, one thread; offsets are uniform random or sequential with
// wrap-around; buffers are filled once, their content is not verified.
#pragma once

#include <chrono>
#include <string>

#include "blockdev/block_store.h"

namespace tidepool::bench {

struct Load {
  std::string name;
  blockdev::IoOp op = blockdev::IoOp::read;
  bool random = false;
  std::uint32_t block = 4096;  // bytes per request
  unsigned depth = 1;
};

struct LoadResult {
  double requests_per_second = 0;
  double bytes_per_second = 0;
};

// Over [0, span) of the store, which must be a multiple of the block.
Result<LoadResult> run_load(blockdev::BlockStore& store, const Load& load, std::uint64_t span,
                            std::chrono::milliseconds time, std::uint64_t seed);

}  // namespace tidepool::bench
