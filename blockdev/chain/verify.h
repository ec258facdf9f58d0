// Reads every block of every layer and checks its hash.
#pragma once

#include <functional>

#include "blockdev/chain/chain.h"
#include "blockdev/chain/store_copy.h"

namespace tidepool::blockdev::chain {

// Also blocks that layers above mask. `sink` gets an Error for each damaged block, with
// file, offset and block. Only a layer that cannot be read ends it before. Blocking; of
// an active layer that changes meanwhile, what it says means nothing.
Result<> verify_chain(Chain& chain, Progress& progress,
                      const std::function<void(const Error&)>& sink);

}  // namespace tidepool::blockdev::chain
