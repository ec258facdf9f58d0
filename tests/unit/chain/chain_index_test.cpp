// The merged index against one entry per block.
#include "blockdev/chain/chain_index.h"

#include <gtest/gtest.h>

#include <random>

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
  EXPECT_FALSE(index.add_layer(11));
  EXPECT_TRUE(index.add_layer(10));
}

}  // namespace
}  // namespace tidepool::blockdev::chain
