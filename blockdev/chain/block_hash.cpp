// The hash of a block, by the widest vectors that the processor has: the library picks
// them at run time on x86.

#if defined(__x86_64__)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#include "blockdev/chain/layer_format.h"

namespace tidepool::blockdev::chain {

std::uint64_t hash_block(std::uint64_t block, const std::byte* data) {
  return XXH3_64bits_withSeed(data, block_bytes, block);
}

}  // namespace tidepool::blockdev::chain
