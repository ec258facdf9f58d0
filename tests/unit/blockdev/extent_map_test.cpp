// ExtentMap against a plain table with one entry per block.
#include "blockdev/extent_map.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace tidepool::blockdev {
namespace {

constexpr std::uint64_t table_blocks = 20'000;
constexpr std::uint64_t nowhere = ~std::uint64_t{0};

// What each block of a disk maps to; keys above 2^32 by an offset.
class Oracle {
 public:
  explicit Oracle(std::uint64_t base) : base_(base), cells_(table_blocks) {}

  struct Cell {
    std::uint64_t pool = nowhere;
    bool unwritten = false;
    bool operator==(const Cell&) const = default;
  };
  Cell& at(std::uint64_t block) { return cells_[block - base_]; }
  bool is_unmapped(std::uint64_t begin, std::uint64_t end) {
    for (std::uint64_t b = begin; b < end; ++b)
      if (at(b).pool != nowhere) return false;
    return true;
  }
  std::uint64_t base() const { return base_; }

 private:
  std::uint64_t base_;
  std::vector<Cell> cells_;
};

// Every extent tells the truth, in order, without gaps in what the oracle has.
void expect_same(const ExtentMap& map, Oracle& oracle) {
  std::uint64_t at = oracle.base(), end = oracle.base() + table_blocks, extents = 0;
  Extent last;
  map.for_range(0, PackedExtent::block_limit, [&](const Extent& e) {
    EXPECT_GE(e.block, at);
    EXPECT_LE(e.count, PackedExtent::count_limit);
    for (; at < e.block; ++at) EXPECT_EQ(oracle.at(at).pool, nowhere) << at;
    for (; at < e.end(); ++at) {
      Oracle::Cell cell{e.physical + (at - e.block), e.unwritten};
      EXPECT_EQ(oracle.at(at), cell) << at;
    }
    ++extents;
    last = e;
    return !testing::Test::HasFailure();
  });
  for (; at < end; ++at) ASSERT_EQ(oracle.at(at).pool, nowhere) << at;
  EXPECT_EQ(map.size(), extents);
}

class ExtentMapRandom : public testing::TestWithParam<std::uint64_t> {};
// At zero, across the boundary of the low half of a key, and at the highest keys.
INSTANTIATE_TEST_SUITE_P(, ExtentMapRandom,
                         testing::Values(0, (std::uint64_t{1} << 32) - table_blocks / 2,
                                         PackedExtent::block_limit - table_blocks));

TEST_P(ExtentMapRandom, AgreesWithATableOfBlocks) {
  ExtentMap map;
  Oracle oracle(GetParam());
  std::mt19937_64 random(GetParam() + 1);
  auto below = [&](std::uint64_t limit) { return random() % limit; };
  for (int step = 0; step < 100'000; ++step) {
    std::uint64_t begin = oracle.base() + below(table_blocks);
    std::uint64_t most = oracle.base() + table_blocks - begin;
    std::uint64_t count = std::min(most, 1 + below(below(50) == 0 ? 2000 : 6));
    if (below(2) == 0) {
      if (!oracle.is_unmapped(begin, begin + count)) continue;
      // Blocks of the pool so that neighbours often join.
      bool unwritten = below(4) == 0;
      std::uint64_t shift = (below(8) == 0 ? below(1000) : 0) + (GetParam() >> 1);
      std::uint64_t pool = begin - oracle.base() + shift;
      map.insert({begin, pool, static_cast<std::uint32_t>(count), unwritten});
      for (std::uint64_t i = 0; i < count; ++i) oracle.at(begin + i) = {pool + i, unwritten};
    } else {
      // Half of what goes is replaced, often by one extent that had just these blocks.
      const bool replace = below(2) == 0;
      if (const auto there = map.find(begin); replace && there && below(4) != 0) {
        begin = there->block;
        count = there->count;
      }
      std::uint64_t at = begin;
      const auto taken = [&](const Extent& e) {
        EXPECT_GE(e.block, at);
        EXPECT_LE(e.end(), begin + count);
        for (; at < e.block; ++at) EXPECT_EQ(oracle.at(at).pool, nowhere);
        for (; at < e.end(); ++at) {
          Oracle::Cell cell{e.physical + (at - e.block), e.unwritten};
          EXPECT_EQ(oracle.at(at), cell) << at;
          oracle.at(at) = {};
        }
      };
      const std::uint64_t pool =
          begin - oracle.base() + (below(3) == 0 ? 0 : below(1000)) + (GetParam() >> 1);
      if (replace) {
        map.replace({begin, pool, static_cast<std::uint32_t>(count), false}, taken);
      } else {
        map.remove(begin, begin + count, taken);
      }
      EXPECT_TRUE(oracle.is_unmapped(begin, begin + count));
      if (replace)
        for (std::uint64_t i = 0; i < count; ++i) oracle.at(begin + i) = {pool + i, false};
    }
    std::uint64_t probe = oracle.base() + below(table_blocks);
    auto found = map.find(probe);
    ASSERT_EQ(found.has_value(), oracle.at(probe).pool != nowhere) << probe;
    if (found) {
      ASSERT_EQ(found->physical + (probe - found->block), oracle.at(probe).pool);
      ASSERT_EQ(found->unwritten, oracle.at(probe).unwritten);
      ASSERT_LT(probe, found->end());
    }
    if (step % 5000 == 0) expect_same(map, oracle);
    if (HasFailure()) FAIL() << "at step " << step;
  }
  expect_same(map, oracle);
  map.remove(0, PackedExtent::block_limit, [](const Extent&) {});
  EXPECT_EQ(map.size(), 0U);
  EXPECT_EQ(map.memory_bytes(), 0U);
}

std::vector<Extent> all(const ExtentMap& map) {
  std::vector<Extent> extents;
  map.for_range(0, PackedExtent::block_limit, [&](const Extent& e) {
    extents.push_back(e);
    return true;
  });
  return extents;
}

TEST(ExtentMap, JoinsNeighboursThatContinueEachOther) {
  ExtentMap map;
  map.insert({10, 110, 5, false});
  map.insert({20, 120, 5, false});
  EXPECT_EQ(map.size(), 2U);
  map.insert({15, 115, 5, false});  // closes the gap: one extent
  EXPECT_EQ(all(map), (std::vector<Extent>{{10, 110, 15, false}}));
}

TEST(ExtentMap, KeepsNeighboursApartThatDoNot) {
  ExtentMap map;
  map.insert({10, 110, 5, false});
  map.insert({15, 116, 5, false});  // elsewhere in the pool
  map.insert({20, 121, 5, true});   // in place, but reads as zeros
  EXPECT_EQ(map.size(), 3U);
}

TEST(ExtentMap, SplitsWhatIsLongerThanAnExtentMayBe) {
  constexpr std::uint32_t limit = PackedExtent::count_limit;
  ExtentMap map;
  map.insert({7, 1007, 2 * limit + 3, false});
  EXPECT_EQ(all(map), (std::vector<Extent>{{7, 1007, limit, false},
                                           {7 + limit, 1007 + limit, limit, false},
                                           {7 + 2 * limit, 1007 + 2 * limit, 3, false}}));
  map.insert({10 + 2 * limit, 1010 + 2 * limit, 4, false});  // the last one has room
  EXPECT_EQ(map.size(), 3U);
  EXPECT_EQ(all(map).back().count, 7U);
}

TEST(ExtentMap, RemovingLeavesHeadAndTail) {
  ExtentMap map;
  map.insert({100, 500, 50, true});
  std::vector<Extent> removed;
  map.remove(110, 120, [&](const Extent& e) { removed.push_back(e); });
  EXPECT_EQ(removed, (std::vector<Extent>{{110, 510, 10, true}}));
  EXPECT_EQ(all(map), (std::vector<Extent>{{100, 500, 10, true}, {120, 520, 30, true}}));
  map.remove(90, 105, [](const Extent&) {});  // a head
  map.remove(140, 1000, [](const Extent&) {});
  EXPECT_EQ(all(map), (std::vector<Extent>{{105, 505, 5, true}, {120, 520, 20, true}}));
}

TEST(ExtentMap, FindsWhatIsAroundABlock) {
  ExtentMap map;
  EXPECT_FALSE(map.find_before(5));
  EXPECT_FALSE(map.find_from(0));
  map.insert({10, 110, 5, false});
  map.insert({30, 130, 5, false});
  EXPECT_FALSE(map.find(9));
  EXPECT_EQ(map.find(14)->block, 10U);
  EXPECT_FALSE(map.find(15));
  EXPECT_EQ(map.find_from(15)->block, 30U);
  EXPECT_FALSE(map.find_from(35));
  EXPECT_FALSE(map.find_before(10));
  EXPECT_EQ(map.find_before(11)->block, 10U);
  EXPECT_EQ(map.find_before(30)->block, 10U);
  EXPECT_EQ(map.find_before(PackedExtent::block_limit)->block, 30U);
}

TEST(ExtentMap, ForRangeClipsAndStops) {
  ExtentMap map;
  for (std::uint64_t i = 0; i < 1000; ++i) map.insert({i * 10, i * 20, 5, false});
  std::vector<Extent> seen;
  map.for_range(13, 5002, [&](const Extent& e) {
    seen.push_back(e);
    return e.block < 5000;
  });
  EXPECT_EQ(seen.front(), (Extent{13, 23, 2, false}));
  EXPECT_EQ(seen.back(), (Extent{5000, 10000, 2, false}));
  EXPECT_EQ(seen.size(), 500U);
}

TEST(PackedExtent, KeepsEveryFieldAtItsLimits) {
  constexpr std::uint64_t top = PackedExtent::block_limit - 1;
  for (bool unwritten : {false, true})
    for (std::uint64_t block : {std::uint64_t{0}, std::uint64_t{0xffff'ffff}, top})
      for (std::uint64_t pool : {std::uint64_t{0}, std::uint64_t{0x1'0000'0000}, top})
        for (std::uint32_t count : {1u, 2u, PackedExtent::count_limit}) {
          Extent e{block, pool, count, unwritten};
          PackedExtent packed = PackedExtent::pack(e);
          EXPECT_EQ(packed.unpack(), e);
          EXPECT_EQ(packed.block(), e.block);
          EXPECT_EQ(packed.end(), e.end());
        }
}

// The promise: an extent costs 16 bytes of memory at most.
constexpr std::uint64_t promised_bytes = 16;

class ExtentMapMemory : public testing::TestWithParam<std::uint64_t> {};
INSTANTIATE_TEST_SUITE_P(, ExtentMapMemory, testing::Values(100'000, 1'000'000));

std::vector<std::uint64_t> shuffled(std::uint64_t count) {
  std::vector<std::uint64_t> order(count);
  for (std::uint64_t i = 0; i < count; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), std::mt19937_64(1));
  return order;
}

TEST_P(ExtentMapMemory, ScatteredExtents) {
  ExtentMap map;
  for (std::uint64_t i : shuffled(GetParam())) map.insert({i * 2, i * 3, 1, false});
  ASSERT_EQ(map.size(), GetParam());
  EXPECT_LE(map.memory_bytes(), promised_bytes * map.size());
}

TEST_P(ExtentMapMemory, ExtentsInOrder) {
  ExtentMap map;
  for (std::uint64_t i = 0; i < GetParam(); ++i) map.insert({i * 2, i * 3, 1, false});
  ASSERT_EQ(map.size(), GetParam());
  EXPECT_LE(map.memory_bytes(), promised_bytes * map.size());
}

TEST_P(ExtentMapMemory, ExtentsFromTheEnd) {
  ExtentMap map;
  for (std::uint64_t i = GetParam(); i-- > 0;) map.insert({i * 2, i * 3, 1, false});
  ASSERT_EQ(map.size(), GetParam());
  EXPECT_LE(map.memory_bytes(), promised_bytes * map.size());
}

// A map that was filled and then thinned out does not keep the memory of what is gone.
TEST_P(ExtentMapMemory, WhatRemainsAfterManyWereRemoved) {
  ExtentMap map;
  auto order = shuffled(GetParam());
  for (std::uint64_t i : order) map.insert({i * 2, i * 3, 1, false});
  for (unsigned percent : {25, 50, 75, 90, 97}) {
    std::uint64_t keep = GetParam() - GetParam() * percent / 100;
    while (order.size() > keep) {
      map.remove(order.back() * 2, order.back() * 2 + 1, [](const Extent&) {});
      order.pop_back();
    }
    ASSERT_EQ(map.size(), keep);
    EXPECT_LE(map.memory_bytes(), promised_bytes * map.size()) << percent << "% removed";
  }
}

TEST_P(ExtentMapMemory, LongHolesPunched) {
  ExtentMap map;
  for (std::uint64_t i : shuffled(GetParam())) map.insert({i * 2, i * 3, 1, false});
  for (std::uint64_t at = 0; at < GetParam() * 2; at += 700)
    map.remove(at, at + 300, [](const Extent&) {});
  EXPECT_LE(map.memory_bytes(), promised_bytes * map.size());
}

}  // namespace
}  // namespace tidepool::blockdev
