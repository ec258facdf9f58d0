// A layer's map: content, slots and their life, replay.
#include "blockdev/chain/layer_map.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace tidepool::blockdev::chain {
namespace {

LayerHeader small_layer() { return *lay_out_layer(std::uint64_t{500} * block_bytes); }

// Every block's slot, "zero" as ~0, absent as ~1.
std::vector<std::uint64_t> content(const LayerMap& map, std::uint64_t blocks) {
  std::vector<std::uint64_t> cells(blocks, ~std::uint64_t{1});
  map.extents().for_range(0, blocks, [&](const Extent& e) {
    for (std::uint64_t i = 0; i < e.count; ++i)
      cells[e.block + i] = e.unwritten ? ~std::uint64_t{0} : e.physical + i;
    return true;
  });
  return cells;
}

void replay(LayerMap& map, const LayerHeader& header, const std::vector<std::byte>& records) {
  ASSERT_TRUE(decode_records(records, header, [&](const LayerRecord& r) { map.replay(r); }));
}

TEST(LayerMap, ReplayGivesTheSameMapAndNoSlotIsUsedTwice) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    std::mt19937_64 random(seed);
    const LayerHeader header = small_layer();
    LayerMap map(header.slots), again(header.slots);
    std::set<std::uint64_t> stable_slots;  // what a crash would bring back
    for (int step = 0; step < 3'000; ++step) {
      const std::uint64_t block = random() % header.blocks();
      const std::uint64_t count = std::min<std::uint64_t>(1 + random() % 30, header.blocks() - block);
      const auto kind = random() % 8;
      if (kind == 0) {
        map.zero(block, count);
      } else if (kind == 1) {
        map.forget(block, count);
      } else {
        std::vector<SlotRun> runs;
        if (map.take(count, runs)) {
          std::uint64_t at = block;
          for (const SlotRun& run : runs) {
            std::vector<std::uint64_t> hashes(run.count);
            for (std::uint64_t i = 0; i < run.count; ++i) {
              hashes[i] = random();
              ASSERT_FALSE(stable_slots.contains(run.slot + i)) << "seed " << seed;
            }
            if (kind == 2) {
              map.give_back(run);
            } else {
              map.map(at, run, hashes.data());
            }
            at += run.count;
          }
        }
      }
      if (step % 50 != 49) continue;
      const auto records = map.begin_commit();
      replay(again, header, records);
      map.committed();
      const auto cells = content(map, header.blocks());
      ASSERT_EQ(cells, content(again, header.blocks())) << "seed " << seed;
      stable_slots.clear();
      for (std::uint64_t slot : cells) {
        if (slot >= header.slots) continue;
        EXPECT_TRUE(stable_slots.insert(slot).second) << "slot " << slot << " twice";
        EXPECT_EQ(map.hashes().find(slot), again.hashes().find(slot));
      }
      again.loaded();
      EXPECT_EQ(again.slots_used(), stable_slots.size());
      EXPECT_EQ(map.slots_used(), stable_slots.size());
    }
  }
}

TEST(LayerMap, FreedSlotsComeBackOnlyAfterTheCommit) {
  LayerMap map(10);
  const std::vector<std::uint64_t> hashes(10);
  std::vector<SlotRun> runs;
  ASSERT_TRUE(map.take(10, runs));
  map.map(0, runs[0], hashes.data());
  map.forget(0, 5);
  runs.clear();
  EXPECT_FALSE(map.take(1, runs));
  EXPECT_EQ(map.freed_slots(), 5u);
  map.begin_commit();
  EXPECT_FALSE(map.take(1, runs));
  map.committed();
  EXPECT_TRUE(map.take(5, runs));
  EXPECT_FALSE(map.take(1, runs));
}

TEST(LayerMap, AFileGrowsNoLargerThanItMust) {
  LayerMap map(1 << 20);
  const std::vector<std::uint64_t> hashes(64);
  std::mt19937_64 random(5);
  for (int step = 0; step < 100'000; ++step) {
    std::vector<SlotRun> runs;
    ASSERT_TRUE(map.take(1, runs));
    map.map(random() % 1000, runs[0], hashes.data());
    if (step % 100 == 99) {
      map.begin_commit();
      map.committed();
    }
  }
  EXPECT_LE(map.high_water(), 1'300u);
}

}  // namespace
}  // namespace tidepool::blockdev::chain
