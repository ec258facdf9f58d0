// Compares what two stores hold.
#pragma once

#include <cstdint>
#include <functional>

#include "blockdev/block_store.h"
#include "blockdev/chain/store_copy.h"

namespace tidepool::blockdev::chain {

struct Difference {
  std::uint64_t offset = 0, length = 0;  // bytes, multiples of 512
};

// Calls `sink` for each range that differs, in order, joined where they touch, until
// it returns false. Where the sizes differ, the longer one's rest must be zeros.
// Only what is data in one of the two is read. Blocking; neither changes meanwhile.
Result<> compare_stores(BlockStore& one, BlockStore& other, Progress& progress,
                        const std::function<bool(const Difference&)>& sink);

}  // namespace tidepool::blockdev::chain
