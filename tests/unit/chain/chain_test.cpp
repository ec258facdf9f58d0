// A chain as a disk, against a flat copy of what it must hold.
#include "blockdev/chain/chain.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tests/lib/chain_disk.h"

namespace tidepool::blockdev::chain {
namespace {

using test::ChainDisk;
using test::SimulatedStore;

constexpr std::uint64_t disk_size = 301 * block_bytes - 1024;  // the last block is cut

struct Flat {
  std::vector<std::byte> bytes = std::vector<std::byte>(disk_size);
  std::mt19937_64 random;

  explicit Flat(std::uint64_t seed) : random(seed) {}

  // One random change, on both. Offsets and lengths of all kinds.
  void change(SyncChannel& channel) {
    const std::uint64_t grain = std::array{1u, 512u, 4096u, 4096u}[random() % 4];
    const std::uint64_t offset = random() % (disk_size / grain) * grain;
    std::uint64_t length = (1 + random() % (random() % 4 == 0 ? 40 : 4)) * grain;
    if (random() % 8 == 0) length = 20 * block_bytes;
    length = std::min(length, disk_size - offset);
    const auto range = std::span(bytes).subspan(offset, length);
    switch (random() % 8) {
      case 0:
        ASSERT_TRUE(channel.discard(offset, length));
        std::ranges::fill(range, std::byte{0});
        break;
      case 1:
        ASSERT_TRUE(channel.zero(offset, length));
        std::ranges::fill(range, std::byte{0});
        break;
      case 2:  // zeros that are written
        std::ranges::fill(range, std::byte{0});
        ASSERT_TRUE(channel.write(offset, range));
        break;
      default:
        for (auto& byte : range) byte = static_cast<std::byte>(random());
        ASSERT_TRUE(channel.write(offset, range));
    }
  }
  void expect_on(SyncChannel& channel) {
    std::vector<std::byte> read(disk_size);
    ASSERT_TRUE(channel.read(0, read));
    const auto at = std::ranges::mismatch(read, bytes).in1 - read.begin();
    ASSERT_EQ(static_cast<std::uint64_t>(at), disk_size) << "differs";
  }
};

std::unique_ptr<SyncChannel> channel_on(Chain& chain) {
  auto channel = SyncChannel::open(chain);
  EXPECT_TRUE(channel);
  return std::move(*channel);
}

TEST(Chain, HoldsWhatWasWrittenThroughManyLayers) {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    Flat flat(seed);
    ChainDisk disk;
    if (seed % 2 == 0) {  // a base that is shorter than the disk
      disk.base = SimulatedStore::open(200 * block_bytes + 512);
      auto base = SyncChannel::open(*disk.base);
      auto part = std::span(flat.bytes).first(200 * block_bytes + 512);
      for (auto& byte : part) byte = static_cast<std::byte>(flat.random());
      ASSERT_TRUE((*base)->write(0, part));
    }
    for (int layer = 0; layer < 6; ++layer) {
      ASSERT_TRUE(disk.add_layer(disk_size));
      for (int life = 0; life < 3; ++life) {
        auto chain = disk.open();
        ASSERT_TRUE(chain) << chain.error().message;
        auto channel = channel_on(**chain);
        flat.expect_on(*channel);
        for (int step = 0; step < 400; ++step) {
          flat.change(*channel);
          if (flat.random() % 50 == 0) {
            ASSERT_TRUE(channel->flush());
          }
          ASSERT_FALSE(HasFatalFailure()) << "seed " << seed;
        }
        flat.expect_on(*channel);
        channel.reset();  // the rest is committed at the end of the chain's life
      }
    }
  }
}

TEST(Chain, DiscardMasksTheParentAndZerosTakeNoSpace) {
  ChainDisk disk;
  ASSERT_TRUE(disk.add_layer(disk_size));
  const std::vector<std::byte> data(64 * block_bytes, std::byte{7});
  {
    auto chain = disk.open();
    auto channel = channel_on(**chain);
    ASSERT_TRUE(channel->write(0, data));
    EXPECT_EQ((*chain)->top().map().slots_used(), 64u);
  }
  ASSERT_TRUE(disk.add_layer(disk_size));
  auto chain = disk.open();
  auto channel = channel_on(**chain);
  ASSERT_TRUE(channel->discard(0, 32 * block_bytes));
  ASSERT_TRUE(channel->write(100 * block_bytes, std::vector<std::byte>(10 * block_bytes)));
  EXPECT_EQ((*chain)->top().map().slots_used(), 0u);
  std::vector<std::byte> read(64 * block_bytes);
  ASSERT_TRUE(channel->read(0, read));
  EXPECT_TRUE(std::all_of(read.begin(), read.begin() + 32 * block_bytes,
                          [](std::byte b) { return b == std::byte{0}; }));
  EXPECT_TRUE(std::equal(read.begin() + 32 * block_bytes, read.end(), data.begin()));
}

TEST(Chain, LocatesDataHolesAndTheBase) {
  ChainDisk disk;
  disk.base = SimulatedStore::open(8 * block_bytes);
  {
    auto base = SyncChannel::open(*disk.base);
    ASSERT_TRUE((*base)->write(0, std::vector<std::byte>(8 * block_bytes, std::byte{1})));
  }
  ASSERT_TRUE(disk.add_layer(disk_size));
  auto chain = disk.open();
  auto channel = channel_on(**chain);
  ASSERT_TRUE(channel->write(4 * block_bytes, std::vector<std::byte>(block_bytes, std::byte{2})));
  ASSERT_TRUE(channel->discard(6 * block_bytes, block_bytes));
  std::vector<std::pair<std::uint64_t, RangeKind>> seen;
  std::uint64_t at = 0;
  ASSERT_TRUE((*chain)->locate(0, disk_size, [&](const Range& range) {
    EXPECT_EQ(range.offset, at);
    at += range.length;
    if (seen.empty() || seen.back().second != range.kind)
      seen.emplace_back(range.offset / block_bytes, range.kind);
    return true;
  }));
  EXPECT_EQ(at, disk_size);
  EXPECT_EQ(seen, (std::vector<std::pair<std::uint64_t, RangeKind>>{{0, RangeKind::data},
                                                                    {6, RangeKind::hole},
                                                                    {7, RangeKind::data},
                                                                    {8, RangeKind::hole}}));
}

TEST(Chain, AFlippedBitIsAnErrorNeverData) {
  ChainDisk disk;
  ASSERT_TRUE(disk.add_layer(disk_size));
  std::uint64_t place = 0;
  {
    auto chain = disk.open();
    auto channel = channel_on(**chain);
    ASSERT_TRUE(channel->write(0, std::vector<std::byte>(8 * block_bytes, std::byte{7})));
    place = (*chain)->top().data_offset(0);
  }
  auto raw = SyncChannel::open(*disk.stores[0]);
  std::vector<std::byte> sector(512);
  ASSERT_TRUE((*raw)->read(place + 3 * block_bytes, sector));
  sector[17] ^= std::byte{4};
  ASSERT_TRUE((*raw)->write(place + 3 * block_bytes, sector));
  auto chain = disk.open();
  auto channel = channel_on(**chain);
  std::vector<std::byte> read(block_bytes);
  for (std::uint64_t block = 0; block < 8; ++block)
    EXPECT_EQ(channel->read(block * block_bytes, read).has_value(), block != 3) << block;
  EXPECT_FALSE(channel->write(3 * block_bytes + 5, std::span(read).first(10)));
  EXPECT_TRUE(channel->write(3 * block_bytes, read));  // as a whole it can be written anew
  EXPECT_TRUE(channel->read(3 * block_bytes, read));
}

TEST(Chain, ASealedLayerIsReadByItsIndexAndNotWritten) {
  Flat flat(11);
  ChainDisk disk;
  ASSERT_TRUE(disk.add_layer(disk_size));
  {
    auto chain = disk.open();
    auto channel = channel_on(**chain);
    for (int step = 0; step < 500; ++step) flat.change(*channel);
    ASSERT_TRUE((*chain)->top().seal((*chain)->lock(), "first"));
  }
  auto writable = disk.open();
  ASSERT_FALSE(writable);
  EXPECT_EQ(writable.error().kind, ErrorKind::permission);
  {
    auto chain = disk.open({.read_only = true});
    ASSERT_TRUE(chain);
    EXPECT_EQ((*chain)->top().header().name, "first");
    EXPECT_EQ((*chain)->top().header().content, 1u);
    auto channel = channel_on(**chain);
    flat.expect_on(*channel);
    EXPECT_FALSE(channel->write(0, std::vector<std::byte>(512)));
  }
  ASSERT_TRUE(disk.add_layer(disk_size));
  auto chain = disk.open();
  auto channel = channel_on(**chain);
  flat.expect_on(*channel);
  for (int step = 0; step < 300; ++step) flat.change(*channel);
  flat.expect_on(*channel);
}

}  // namespace
}  // namespace tidepool::blockdev::chain
