// A chain in memory: layers on SimulatedStores, so that tests can crash, copy and
// damage them.
#pragma once

#include <memory>
#include <vector>

#include "blockdev/chain/chain.h"
#include "tests/lib/simulated_store.h"

namespace tidepool::test {

struct ChainDisk {
  std::shared_ptr<SimulatedStore> base;                 // may be null
  std::vector<std::shared_ptr<SimulatedStore>> stores;  // one per layer, the top last

  // Adds an empty layer for a disk of `size` bytes.
  Result<> add_layer(std::uint64_t size);
  Result<std::shared_ptr<blockdev::chain::Chain>> open(
      const blockdev::chain::ChainOptions& options = {},
      const blockdev::chain::Sabotage& sabotage = {}, bool reuse_at_once = false) const;
};

}  // namespace tidepool::test
