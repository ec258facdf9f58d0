// A superblock, as it comes and with its checksum made right.
#include <algorithm>
#include <array>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "fs/pool/recovery.h"
#include "tests/fuzz/target.h"

namespace tidepool::test {

using namespace pool;

std::vector<Input> seeds() {
  std::vector<Input> inputs;
  for (std::uint64_t bytes : {16ULL << 20, 1ULL << 30, 64ULL << 40}) {
    auto superblock = lay_out(bytes, 1 << 20);
    superblock->uuid = {1, 2, 3};
    superblock->generation = 3;
    superblock->checkpoint_pages = 1;
    auto slot = encode(*superblock);
    inputs.emplace_back(slot.begin(), slot.end());
  }
  return inputs;
}

namespace {

void judge(std::span<const std::byte> slot) {
  Superblock s;
  if (decode(slot, s) != SlotState::valid) return;
  Superblock again;
  require(decode(encode(s), again) == SlotState::valid, "a valid superblock can be written");
  require(encode(again) == encode(s), "and is the same then");
  // Every part lies in the pool, and none in another.
  auto layout = layout_of(s);
  for (const Run& run : layout.metadata)
    require(run.start <= layout.blocks && run.count <= layout.blocks - run.start, "areas fit");
  if (s.pool_bytes > 1ULL << 30) return;  // memory for its bitmap
  BlockAllocator allocator(layout.blocks, layout.blocks_per_chunk);
  for (const Run& run : layout.metadata)
    require(allocator.mark_used(run.start, run.count), "areas do not overlap");
}

}  // namespace

void run_one(std::span<const std::byte> input) {
  judge(input);
  std::array<std::byte, Superblock::encoded_size> slot{};
  constexpr std::size_t hashed = slot.size() - sizeof(std::uint64_t);
  std::copy_n(input.begin(), std::min(input.size(), hashed), slot.begin());
  std::uint64_t hash = XXH3_64bits(slot.data(), hashed);
  std::memcpy(slot.data() + hashed, &hash, sizeof hash);
  judge(slot);
}

}  // namespace tidepool::test
