// What the first blocks of a file say about it, read without lock or recovery,
// so also while a daemon works on the pool.
#pragma once

#include <optional>
#include <string>

#include "blockdev/block_store.h"

namespace tidepool::control {

struct PoolIdentity {
  bool has_superblock = false;      // of any version, in whatever state
  std::optional<std::string> uuid;  // from a slot that is valid
};

Result<PoolIdentity> identify_pool(blockdev::BlockStore& store);

}  // namespace tidepool::control
