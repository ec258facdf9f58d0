// What a disk reads after it was written: on a store in memory, with both kinds
// of block sizes, and on a file.
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <random>

#include "blockdev/stores/file_store.h"
#include "blockdev/sync_channel.h"
#include "tests/unit/pool/pool_fixture.h"

namespace tidepool::pool {
namespace {

struct PoolContent : PoolTest {};

TEST_F(PoolContent, HolesReadAsZeros) {
  Disk& disk = make(a, "d");
  ASSERT_TRUE(pool->set_size(disk, 10 * mib));
  EXPECT_EQ(read(disk, 0, 3 * mib), filled(3 * mib, 0));
  ASSERT_EQ(write(disk, 5 * mib, 4096, 7), 0);
  Bytes around = read(disk, 5 * mib - 4096, 3 * 4096);
  Bytes expected = filled(3 * 4096, 0);
  std::fill_n(expected.begin() + 4096, 4096, std::byte{7});
  EXPECT_EQ(around, expected);
  EXPECT_EQ(pool->attributes(disk.id)->allocated_bytes, 4096U);
}

// The block may hold what another disk left there: a discard need not clear it.
TEST_F(PoolContent, APartialFirstWriteShowsZerosAround) {
  Disk& old = make(b, "old");
  fill_pool(old);
  std::vector<blockdev::Range> places;
  ASSERT_TRUE(pool->locate(old, 0, pool->attributes(old.id)->size, [&](const auto& range) {
    places.push_back(range);
    return true;
  }));
  ASSERT_TRUE(pool->remove_disk(b, "old"));
  let_go(old);
  ASSERT_TRUE(pool->release_freed());
  auto raw = blockdev::SyncChannel::open(*below).value();
  for (const auto& place : places)
    ASSERT_TRUE(raw->write(place.leaf_offset, filled(place.length, 0xaa)));
  Disk& disk = make(a, "d");
  for (auto [offset, length] : {std::pair{512, 512}, {4096 + 1, 1}, {3 * 4096 - 7, 20}}) {
    ASSERT_EQ(
        write(disk, static_cast<std::uint64_t>(offset), static_cast<std::uint64_t>(length), 9), 0);
  }
  Bytes expected = filled(4 * 4096, 0);
  std::fill_n(expected.begin() + 512, 512, std::byte{9});
  expected[4097] = std::byte{9};
  std::fill_n(expected.begin() + 3 * 4096 - 7, 20, std::byte{9});
  EXPECT_EQ(read(disk, 0, 4 * 4096), expected);
}

TEST_F(PoolContent, WritesExtendTheDisk) {
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 5000, 10, 1), 0);
  EXPECT_EQ(pool->attributes(disk.id)->size, 5010U);
  ASSERT_EQ(write(disk, 0, 10, 1), 0);
  EXPECT_EQ(pool->attributes(disk.id)->size, 5010U);
}

TEST_F(PoolContent, NothingIsWrittenBeyondWhatADiskCanBe) {
  Disk& disk = make(a, "d");
  constexpr std::uint64_t limit = PackedExtent::block_limit * block_size;
  EXPECT_EQ(write(disk, limit, 1, 1), EFBIG);
  EXPECT_EQ(write(disk, ~std::uint64_t{0} - 10, 5, 1), EFBIG);
  EXPECT_EQ(write(disk, limit - 4096, 4096, 1), 0);
  EXPECT_EQ(read(disk, limit - 4096, 4096), filled(4096, 1));
  EXPECT_EQ(pool->set_size(disk, limit + 1).error().errno_value, EFBIG);
}

TEST_F(PoolContent, TruncatingClearsTheTail) {
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 0, 4 * 4096, 3), 0);
  ASSERT_EQ(driver->truncate(disk, 4 * 4096, 4096 + 100), 0);
  EXPECT_EQ(pool->attributes(disk.id)->size, 4196U);
  EXPECT_EQ(pool->attributes(disk.id)->allocated_bytes, 2 * 4096U);
  ASSERT_EQ(driver->truncate(disk, 4196, 4 * 4096), 0);
  Bytes expected = filled(4 * 4096, 0);
  std::fill_n(expected.begin(), 4196, std::byte{3});
  EXPECT_EQ(read(disk, 0, 4 * 4096), expected);
}

TEST_F(PoolContent, ZeroKeepsTheSpaceAndDiscardGivesItBack) {
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 0, 8 * 4096, 3), 0);
  ASSERT_EQ(driver->change(disk, IoOp::zero, 4096, 2 * 4096), 0);
  EXPECT_EQ(read(disk, 4096, 2 * 4096), filled(2 * 4096, 0));
  EXPECT_EQ(pool->attributes(disk.id)->allocated_bytes, 8 * 4096U);
  ASSERT_EQ(driver->change(disk, IoOp::discard, 4 * 4096, 2 * 4096), 0);
  EXPECT_EQ(read(disk, 4 * 4096, 2 * 4096), filled(2 * 4096, 0));
  EXPECT_EQ(pool->attributes(disk.id)->allocated_bytes, 6 * 4096U);
  EXPECT_EQ(read(disk, 0, 4096), filled(4096, 3));
  EXPECT_EQ(read(disk, 6 * 4096, 2 * 4096), filled(2 * 4096, 3));
  // A part of a zeroed block written: the rest stays zeros.
  ASSERT_EQ(write(disk, 4096 + 512, 512, 4), 0);
  Bytes block = filled(4096, 0);
  std::fill_n(block.begin() + 512, 512, std::byte{4});
  EXPECT_EQ(read(disk, 4096, 4096), block);
}

TEST_F(PoolContent, AllocateLeavesTheContent) {
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 4096, 4096, 3), 0);
  ASSERT_EQ(driver->change(disk, IoOp::allocate, 0, 4 * 4096), 0);
  EXPECT_EQ(pool->attributes(disk.id)->allocated_bytes, 4 * 4096U);
  Bytes expected = filled(4 * 4096, 0);
  std::fill_n(expected.begin() + 4096, 4096, std::byte{3});
  EXPECT_EQ(read(disk, 0, 4 * 4096), expected);
}

TEST_F(PoolContent, LocateTellsDataZerosAndHoles) {
  using blockdev::RangeKind;
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 4096, 4096, 3), 0);
  ASSERT_EQ(driver->change(disk, IoOp::allocate, 3 * 4096, 4096), 0);
  std::vector<blockdev::Range> ranges;
  ASSERT_TRUE(pool->locate(disk, 100, 5 * 4096 - 100, [&](const blockdev::Range& range) {
    ranges.push_back(range);
    return true;
  }));
  ASSERT_EQ(ranges.size(), 5U);
  std::uint64_t at = 100;
  for (const auto& range : ranges) {
    EXPECT_EQ(range.offset, at);
    at += range.length;
  }
  EXPECT_EQ(at, 5 * 4096U);
  EXPECT_EQ(ranges[0].kind, RangeKind::hole);
  EXPECT_EQ(ranges[1].kind, RangeKind::data);
  EXPECT_EQ(ranges[2].kind, RangeKind::hole);
  EXPECT_EQ(ranges[3].kind, RangeKind::zero);
  EXPECT_EQ(ranges[4].kind, RangeKind::hole);
  Bytes raw(4096);
  below->newest().read(ranges[1].leaf_offset, raw);
  EXPECT_EQ(raw, filled(4096, 3));
  EXPECT_EQ(ranges[1].leaf_offset % block_size, 0U);
}

TEST_F(PoolContent, ForceUnitAccessIsStableAtOnce) {
  Disk& disk = make(a, "d");
  ASSERT_EQ(driver->write(disk, 0, filled(4096, 6), true), 0);
  for (auto mode : {test::CrashMode::drop_all, test::CrashMode::torn}) {
    auto after = SimulatedStore::open(below->crash(1, mode));
    auto crashed = Pool::open(after, options);
    ASSERT_TRUE(crashed) << crashed.error().message;
    PoolDriver reader(**crashed);
    NodeId vm = (*crashed)->lookup(root_id, "a")->id;
    Disk* found = (*crashed)->hold((*crashed)->lookup(vm, "d")->id).value();
    Bytes data(4096);
    EXPECT_EQ(reader.read(*found, 0, data), 0);
    EXPECT_EQ(data, filled(4096, 6));
    (*crashed)->release(found);
  }
}

TEST_F(PoolContent, RequestsOfNoLengthSucceed) {
  Disk& disk = make(a, "d");
  EXPECT_EQ(driver->change(disk, IoOp::discard, 100, 0), 0);
  EXPECT_EQ(driver->write(disk, 100, {}), 0);
  EXPECT_EQ(pool->attributes(disk.id)->size, 0U);
}

// Random requests, byte-granular, against the same bytes in memory; the pool is
// closed and opened again in between.
class Content {
 public:
  static constexpr std::uint64_t limit = 600 * 1024;

  explicit Content(std::uint64_t seed) : random_(seed) {}

  void step(Pool& pool, PoolDriver& driver, Disk& disk) {
    std::uint64_t length = 1 + below(below(4) == 0 ? 100'000 : 9000),
                  offset = below(limit - 100'000);
    if (below(2) == 0) {  // aligned
      offset = offset / 512 * 512;
      length = (length + 511) / 512 * 512;
    }
    switch (below(8)) {
      case 0:
        ASSERT_EQ(driver.change(disk, IoOp::discard, offset, length), 0);
        return set(offset, length, {});
      case 1:
        ASSERT_EQ(driver.change(disk, IoOp::zero, offset, length), 0);
        return set(offset, length, {});
      case 2:
        ASSERT_EQ(driver.change(disk, IoOp::allocate, offset, length), 0);
        return;
      case 3: {
        ASSERT_EQ(driver.truncate(disk, size_, offset), 0);
        set(offset, limit - offset, {});
        size_ = offset;
        return;
      }
      default: {
        Bytes data(length);
        for (auto& byte : data) byte = static_cast<std::byte>(random_());
        ASSERT_EQ(driver.write(disk, offset, data), 0);
        std::ranges::copy(data, expected_.begin() + static_cast<std::ptrdiff_t>(offset));
        size_ = std::max(size_, offset + length);
      }
    }
    ASSERT_EQ(pool.attributes(disk.id)->size, size_);
  }
  void judge(PoolDriver& driver, Disk& disk) {
    std::uint64_t offset = below(limit), length = 1 + below(limit - offset);
    Bytes data(length);
    ASSERT_EQ(driver.read(disk, offset, data), 0);
    auto from = expected_.begin() + static_cast<std::ptrdiff_t>(offset);
    ASSERT_TRUE(std::equal(data.begin(), data.end(), from));
  }

 private:
  std::uint64_t below(std::uint64_t bound) { return random_() % bound; }
  void set(std::uint64_t offset, std::uint64_t length, std::byte value) {
    std::fill_n(expected_.begin() + static_cast<std::ptrdiff_t>(offset), length, value);
  }
  std::mt19937_64 random_;
  Bytes expected_ = Bytes(limit);
  std::uint64_t size_ = 0;
};

void run_random(Content& content, Pool& pool, int steps) {
  NodeId vm = pool.lookup(root_id, "a")->id;
  Disk* disk = pool.hold(pool.lookup(vm, "random")->id).value();
  PoolDriver driver(pool);
  for (int i = 0; i < steps; ++i) {
    content.judge(driver, *disk);
    content.step(pool, driver, *disk);
    if (i % 16 == 0) {
      ASSERT_EQ(driver.flush(*disk), 0);
    }
    if (testing::Test::HasFailure()) break;
  }
  pool.release(disk);
}

TEST_F(PoolContent, RandomBytesOnAStoreInMemory) {
  ASSERT_TRUE(pool->make_disk(a, "random", 0600, 0, 0));
  Content content(1);
  for (int round = 0; round < 4; ++round) {
    options.background = round % 2 == 1;
    reopen();
    run_random(content, *pool, 300);
  }
  EXPECT_EQ(pool->figures().recovered_records, 0U);
  close();
  expect_sound();
}

// A device with large sectors and alignment of memory.
TEST(PoolOnWideBlocks, RandomBytes) {
  SimulatedStore::Options store_options;
  store_options.logical_block = 4096;
  store_options.memory_alignment = 4096;
  auto store = SimulatedStore::open(test::SparseImage(16 * mib), store_options);
  ASSERT_TRUE(Pool::create(*store, {.size = 0, .chunk_bytes = 64 * 1024}));
  auto pool = Pool::open(store, {.background = false});
  ASSERT_TRUE(pool) << pool.error().message;
  NodeId vm = (*pool)->make_vm("a", 0700, 0, 0)->id;
  ASSERT_TRUE((*pool)->make_disk(vm, "random", 0600, 0, 0));
  Content content(2);
  run_random(content, **pool, 400);
}

TEST(PoolOnAFile, RandomBytesAndSpaceThatGoesBack) {
  std::string path = (std::filesystem::temp_directory_path() / "pool-content-XXXXXX").string();
  UniqueFd fd(::mkstemp(path.data()));
  ASSERT_TRUE(fd);
  ASSERT_EQ(::ftruncate(fd.get(), 64 * mib), 0);
  {
    auto store = blockdev::FileStore::open(path, {});
    ASSERT_TRUE(store) << store.error().message;
    ASSERT_TRUE(Pool::create(**store, {.size = 0, .chunk_bytes = 64 * 1024}));
    Content content(3);
    for (int round = 0; round < 2; ++round) {
      auto pool = Pool::open(*store, {.background = round == 0});
      ASSERT_TRUE(pool) << pool.error().message;
      if (round == 0) {
        NodeId vm = (*pool)->make_vm("a", 0700, 0, 0)->id;
        ASSERT_TRUE((*pool)->make_disk(vm, "random", 0600, 0, 0));
      }
      run_random(content, **pool, 300);
    }
    auto pool = Pool::open(*store, {});
    ASSERT_TRUE(pool) << pool.error().message;
    NodeId vm = (*pool)->lookup(root_id, "a")->id;
    Disk* big = (*pool)->hold((*pool)->make_disk(vm, "big", 0600, 0, 0)->id).value();
    PoolDriver driver(**pool);
    ASSERT_EQ(driver.write(*big, 0, filled(16 * mib, 1)), 0);
    ASSERT_TRUE((*pool)->commit());
    std::uint64_t with = (*store)->allocated_bytes().value();
    EXPECT_GE(with, 16 * mib);
    ASSERT_TRUE((*pool)->remove_disk(vm, "big"));
    (*pool)->release(big);
    ASSERT_TRUE((*pool)->release_freed());
    EXPECT_LE((*store)->allocated_bytes().value(), with - 16 * mib + mib);
  }
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace tidepool::pool
