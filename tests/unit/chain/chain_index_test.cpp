// The merged index against one entry per block.
#include "blockdev/chain/chain_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <random>
#include <span>

#include "blockdev/chain/layer_map.h"

namespace tidepool::blockdev::chain {
namespace {

constexpr std::uint64_t blocks = 3000, slots = 4000;

struct Cell {
  ChainPiece::Kind kind = ChainPiece::Kind::absent;
  std::uint32_t layer = 0;
  std::uint64_t slot = 0;
};

void expect_same(const ChainIndex& index, const std::vector<Cell>& oracle) {
  std::uint64_t at = 0;
  index.for_range(0, blocks, [&](const ChainPiece& piece) {
    EXPECT_EQ(piece.block, at);
    for (std::uint64_t i = 0; i < piece.count; ++i, ++at) {
      const Cell& cell = oracle[at];
      EXPECT_EQ(piece.kind, cell.kind) << at;
      if (cell.kind != ChainPiece::Kind::data) continue;
      EXPECT_EQ(piece.layer, cell.layer) << at;
      EXPECT_EQ(piece.slot + i, cell.slot) << at;
    }
    return !testing::Test::HasFailure();
  });
  EXPECT_EQ(at, blocks);
}

// Layers of random extents; each has what a layer of a chain may have.
std::vector<std::vector<Extent>> random_layers(std::uint64_t seed, unsigned count,
                                               std::vector<Cell>& oracle) {
  std::mt19937_64 random(seed);
  std::vector<std::vector<Extent>> layers(count);
  oracle.assign(blocks, {});
  for (std::uint32_t layer = 0; layer < count; ++layer) {
    std::uint64_t block = random() % 100, slot = 0;
    while (block < blocks) {
      const auto length =
          static_cast<std::uint32_t>(std::min<std::uint64_t>(1 + random() % 60, blocks - block));
      const bool zero = random() % 4 == 0;
      layers[layer].push_back({block, zero ? block : slot, length, zero});
      for (std::uint64_t i = 0; i < length; ++i) {
        oracle[block + i] = zero ? Cell{ChainPiece::Kind::zero, 0, 0}
                                 : Cell{ChainPiece::Kind::data, layer, slot + i};
      }
      if (!zero) slot += length;
      block += length + random() % 200;
    }
  }
  return layers;
}

TEST(ChainIndex, BuildsWhatTheLayersShow) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    std::vector<Cell> oracle;
    const auto layers = random_layers(seed, 1 + seed % 12, oracle);
    ChainIndex index;
    for (std::size_t i = 0; i < layers.size(); ++i) ASSERT_TRUE(index.add_layer(slots));
    index.build(layers);
    expect_same(index, oracle);
    ASSERT_FALSE(HasFailure()) << "seed " << seed;
  }
}

TEST(ChainIndex, ChangesAsItsTopDoes) {
  std::mt19937_64 random(3);
  std::vector<Cell> oracle;
  const auto layers = random_layers(9, 5, oracle);
  ChainIndex index;
  for (std::size_t i = 0; i < layers.size(); ++i) ASSERT_TRUE(index.add_layer(slots));
  index.build(layers);
  for (int step = 0; step < 20'000; ++step) {
    if (step % 5'000 == 4'999) {
      index.trim(index.layers() - 1, slots);
      ASSERT_TRUE(index.add_layer(slots));
    }
    const std::uint64_t block = random() % blocks;
    const std::uint64_t count = std::min<std::uint64_t>(1 + random() % 40, blocks - block);
    const std::uint64_t slot = random() % (slots - count);
    const std::uint32_t top = index.layers() - 1;
    const auto kind = random() % 4;
    if (kind == 0) {
      index.put_zero(block, count);
    } else if (kind == 1) {
      index.forget(block, count);
    } else {
      index.put_data(top, block, slot, count);
    }
    for (std::uint64_t i = 0; i < count; ++i) {
      oracle[block + i] = kind == 0   ? Cell{ChainPiece::Kind::zero, 0, 0}
                          : kind == 1 ? Cell{}
                                      : Cell{ChainPiece::Kind::data, top, slot + i};
    }
    if (step % 1'000 == 0) expect_same(index, oracle);
  }
  expect_same(index, oracle);
}

TEST(ChainIndex, RefusesMoreSlotsThanItCanNumber) {
  ChainIndex index;
  ASSERT_TRUE(index.add_layer(PackedExtent::block_limit - 10));
  EXPECT_FALSE(index.add_layer(10));
  EXPECT_TRUE(index.add_layer(9));
  EXPECT_FALSE(index.add_layer(1));
}

// As when a disk is written from its beginning to its end, over a checkpoint.
TEST(ChainIndex, ALayersLastSlotAndTheNextOnesFirstStayApart) {
  const std::vector<std::vector<Extent>> layers{{{0, 0, 10, false}}, {{10, 0, 5, false}}};
  const auto expect_apart = [](const ChainIndex& index) {
    std::vector<ChainPiece> pieces;
    index.for_range(0, 15, [&](const ChainPiece& piece) {
      pieces.push_back(piece);
      return true;
    });
    ASSERT_EQ(pieces.size(), 2u);
    EXPECT_EQ(pieces[0].layer, 0u);
    EXPECT_EQ(pieces[0].count, 10u);
    EXPECT_EQ(pieces[1].layer, 1u);
    EXPECT_EQ(pieces[1].slot, 0u);
  };
  ChainIndex built;
  ASSERT_TRUE(built.add_layer(10));
  ASSERT_TRUE(built.add_layer(5));
  built.build(layers);
  expect_apart(built);

  ChainIndex grown;
  ASSERT_TRUE(grown.add_layer(slots));
  grown.put_data(0, 0, 0, 10);
  grown.trim(0, 10);
  ASSERT_TRUE(grown.add_layer(slots));
  grown.put_data(1, 10, 0, 5);
  expect_apart(grown);

  // And where a layer comes between two others.
  ChainIndex full;
  ASSERT_TRUE(full.add_layer(20));
  ASSERT_TRUE(full.add_layer(PackedExtent::block_limit - 21));
  full.trim(0, 10);
  EXPECT_FALSE(full.add_layer(10));
  ASSERT_TRUE(full.add_layer(9));
  full.put_data(0, 0, 0, 10);
  full.put_data(2, 10, 0, 9);
  full.put_data(1, 19, 0, 1);
  std::size_t pieces = 0;
  full.for_range(0, 20, [&](const ChainPiece&) { return ++pieces, true; });
  EXPECT_EQ(pieces, 3u);
}

// The promise: in the index of a deep chain an extent costs 16 bytes of memory at most,
// and as much again in the map of its own layer.
TEST(ChainIndex, MemoryOfAnExtent) {
  constexpr std::uint64_t promised_bytes = 16, layer_count = 1'000, each = 1'000;
  std::vector<std::uint64_t> order(layer_count * each);
  for (std::uint64_t i = 0; i < order.size(); ++i) order[i] = i * 2;
  std::shuffle(order.begin(), order.end(), std::mt19937_64(1));
  ChainIndex index;
  std::vector<std::vector<Extent>> layers(layer_count);
  std::uint64_t own_bytes = 0;
  for (std::uint64_t layer = 0; layer < layer_count; ++layer) {
    const auto blocks = std::span(order).subspan(layer * each, each);
    std::sort(blocks.begin(), blocks.end());
    LayerMap map(each);
    for (std::uint64_t i = 0; i < each; ++i) {
      layers[layer].push_back({blocks[i], i, 1, false});
      map.load(layers[layer].back());
    }
    map.loaded();
    own_bytes += map.memory_bytes();
    ASSERT_TRUE(index.add_layer(each));
  }
  index.build(layers);
  ASSERT_EQ(index.extents(), order.size());
  EXPECT_LE(index.memory_bytes(), promised_bytes * index.extents());
  EXPECT_LE(own_bytes, promised_bytes * index.extents());
  const auto per_extent = [&](std::uint64_t bytes) {
    return static_cast<double>(bytes) / static_cast<double>(index.extents());
  };
  std::printf("%.1f bytes an extent in the index, %.1f in its layer's map\n",
              per_extent(index.memory_bytes()), per_extent(own_bytes));
}

}  // namespace
}  // namespace tidepool::blockdev::chain
