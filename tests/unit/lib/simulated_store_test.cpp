#include "tests/lib/simulated_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <vector>

#include "blockdev/sync_channel.h"
#include "tests/lib/null_store.h"

namespace tidepool::test {
namespace {

using blockdev::AlignedBuffer;
using blockdev::IoOp;
using blockdev::IoRequest;
using blockdev::SyncChannel;

constexpr std::uint64_t disk_size = 256 * 1024;
constexpr std::size_t sector = SimulatedStore::sector;

std::vector<std::byte> filled(std::size_t size, int value) {
  return std::vector<std::byte>(size, static_cast<std::byte>(value));
}

// The value that fills a sector, -1 when it is not one value.
int sector_value(const SparseImage& image, std::uint64_t offset) {
  std::vector<std::byte> data(sector);
  image.read(offset, data);
  const auto same = std::all_of(data.begin(), data.end(), [&](auto b) { return b == data[0]; });
  return same ? std::to_integer<int>(data[0]) : -1;
}

struct Disk {
  std::shared_ptr<SimulatedStore> store = SimulatedStore::open(disk_size);
  std::unique_ptr<SyncChannel> channel = SyncChannel::open(*store).value();

  void write(std::uint64_t offset, std::size_t size, int value) {
    ASSERT_TRUE(channel->write(offset, filled(size, value)));
  }
  int forced(IoOp op, std::uint64_t offset, std::uint64_t length, int value = 0) {
    auto data = filled(static_cast<std::size_t>(length), value);
    const iovec buffer{data.data(), data.size()};
    struct Noted : IoRequest {
      int error = -1;
    } request;
    request.op = op;
    request.force_unit_access = true;
    request.offset = offset;
    request.length = length;
    request.buffers = &buffer;
    request.buffer_count = 1;
    request.complete = [](IoRequest& self, int error) { static_cast<Noted&>(self).error = error; };
    auto loop = EventLoop::create({}).value();
    store->open_channel(*loop).value()->submit(request);
    return request.error;
  }
};

TEST(SimulatedStore, ReadsTheNewestContent) {
  Disk disk;
  disk.write(0, 8192, 1);
  disk.write(sector, sector, 2);
  ASSERT_TRUE(disk.channel->discard(4096, 4096));
  const auto image = disk.store->newest();
  EXPECT_EQ(sector_value(image, 0), 1);
  EXPECT_EQ(sector_value(image, sector), 2);
  EXPECT_EQ(sector_value(image, 4096), 0);
  auto data = filled(sector, 9);
  ASSERT_TRUE(disk.channel->read(sector, data));
  EXPECT_EQ(data, filled(sector, 2));
}

TEST(SimulatedStore, DropAllAndKeepAll) {
  Disk disk;
  disk.write(0, 4096, 1);
  ASSERT_TRUE(disk.channel->flush());
  disk.write(0, 4096, 2);
  EXPECT_EQ(sector_value(disk.store->crash(7, CrashMode::drop_all), 0), 1);
  EXPECT_EQ(sector_value(disk.store->crash(7, CrashMode::keep_all), 0), 2);
}

TEST(SimulatedStore, FlushedDataSurvivesEveryCrash) {
  Disk disk;
  disk.write(0, 64 * 1024, 1);
  ASSERT_TRUE(disk.channel->zero(4096, 4096));
  ASSERT_TRUE(disk.channel->flush());
  disk.write(128 * 1024, 64 * 1024, 3);  // elsewhere: may do what it likes
  EXPECT_EQ(disk.store->unflushed(), 1U);
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    const auto image = disk.store->crash(seed);
    for (std::uint64_t at = 0; at < 64 * 1024; at += sector) {
      const int expected = at >= 4096 && at < 8192 ? 0 : 1;
      ASSERT_EQ(sector_value(image, at), expected) << "seed " << seed << " at " << at;
    }
  }
}

TEST(SimulatedStore, ForcedChangesSurviveEveryCrash) {
  Disk disk;
  disk.write(0, 4096, 1);
  ASSERT_EQ(disk.forced(IoOp::write, sector, sector, 2), 0);
  disk.write(8192, 4096, 3);
  ASSERT_EQ(disk.forced(IoOp::discard, 8192, 4096), 0);
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    const auto image = disk.store->crash(seed);
    ASSERT_EQ(sector_value(image, sector), 2) << "seed " << seed;
    ASSERT_EQ(sector_value(image, 8192), 0) << "seed " << seed;
  }
}

// Over many seeds, each mode must show the losses that it is there for.
TEST(SimulatedStore, RandomSubsetLosesWholeChangesInAnyCombination) {
  Disk disk;
  disk.write(0, 4096, 1);
  disk.write(4096, 4096, 2);
  std::set<std::pair<int, int>> seen;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const auto image = disk.store->crash(seed, CrashMode::random_subset);
    for (std::uint64_t at = 0; at < 8192; at += sector) {
      ASSERT_EQ(sector_value(image, at), sector_value(image, at / 4096 * 4096));
    }
    seen.emplace(sector_value(image, 0), sector_value(image, 4096));
  }
  EXPECT_EQ(seen, (std::set<std::pair<int, int>>{{0, 0}, {0, 2}, {1, 0}, {1, 2}}));
}

TEST(SimulatedStore, TornChangesAreCutAtSectors) {
  Disk disk;
  disk.write(sector, 8 * sector, 5);  // not block-aligned
  unsigned torn = 0, whole = 0, lost = 0;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const auto image = disk.store->crash(seed, CrashMode::torn);
    int kept = 0;
    for (std::uint64_t at = sector; at < 9 * sector; at += sector) {
      const int value = sector_value(image, at);
      ASSERT_TRUE(value == 0 || value == 5);
      kept += value == 5;
    }
    ASSERT_EQ(sector_value(image, 0), 0);
    ASSERT_EQ(sector_value(image, 9 * sector), 0);
    (kept == 0 ? lost : kept == 8 ? whole : torn) += 1;
  }
  EXPECT_GT(torn, 20U);
  EXPECT_GT(whole, 20U);
  EXPECT_GT(lost, 20U);
}

TEST(SimulatedStore, ReorderLetsAnyContentOfASectorSurvive) {
  Disk disk;
  disk.write(0, 2 * sector, 1);
  ASSERT_TRUE(disk.channel->flush());
  disk.write(0, 2 * sector, 2);
  disk.write(0, 2 * sector, 3);
  ASSERT_TRUE(disk.channel->discard(0, 2 * sector));
  std::set<std::pair<int, int>> seen;
  for (std::uint64_t seed = 0; seed < 1000; ++seed) {
    const auto image = disk.store->crash(seed, CrashMode::reorder);
    seen.emplace(sector_value(image, 0), sector_value(image, sector));
  }
  EXPECT_EQ(seen.size(), 16U);  // {0, 1, 2, 3} for each sector, independently
  for (const auto& [left, right] : seen) {
    EXPECT_TRUE(left >= 0 && left <= 3);
    EXPECT_TRUE(right >= 0 && right <= 3);
  }
}

TEST(SimulatedStore, ReorderDoesNotGoBehindAForcedChange) {
  Disk disk;
  disk.write(0, sector, 1);
  ASSERT_EQ(disk.forced(IoOp::write, 0, sector, 2), 0);
  disk.write(0, sector, 3);
  std::set<int> seen;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    seen.insert(sector_value(disk.store->crash(seed, CrashMode::reorder), 0));
  }
  EXPECT_EQ(seen, (std::set<int>{2, 3}));
}

TEST(SimulatedStore, TheSameSeedGivesTheSameImage) {
  Disk disk;
  for (int i = 0; i < 32; ++i) disk.write(static_cast<std::uint64_t>(i) * 2048, 4096, i + 1);
  bool differs = false;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    EXPECT_TRUE(disk.store->crash(seed) == disk.store->crash(seed));
    differs = differs || !(disk.store->crash(seed) == disk.store->crash(seed + crash_mode_count));
  }
  EXPECT_TRUE(differs);
}

TEST(SimulatedStore, EverythingFailsAfterTheCrashPointAndNothingChanges) {
  Disk disk;
  disk.store->set_crash_at(3);
  disk.write(0, 4096, 1);
  ASSERT_TRUE(disk.channel->flush());
  EXPECT_FALSE(disk.store->crashed());
  disk.write(0, 4096, 2);  // the third change: done, but not flushed
  EXPECT_TRUE(disk.store->crashed());
  const auto newest = disk.store->newest();
  auto data = filled(4096, 9);
  EXPECT_EQ(disk.channel->write(4096, data).error().errno_value, EIO);
  EXPECT_EQ(disk.channel->read(0, data).error().errno_value, EIO);
  EXPECT_EQ(disk.channel->flush().error().errno_value, EIO);
  EXPECT_EQ(disk.channel->discard(0, 4096).error().errno_value, EIO);
  EXPECT_TRUE(disk.store->newest() == newest);
  EXPECT_EQ(disk.store->counters().changes(), 3U);
  EXPECT_EQ(sector_value(disk.store->crash(0, CrashMode::drop_all), 0), 1);
  EXPECT_EQ(sector_value(disk.store->crash(0, CrashMode::keep_all), 0), 2);
}

TEST(SimulatedStore, ReopensFromAnImageThatItDoesNotShare) {
  Disk disk;
  disk.write(0, 4096, 1);
  auto reopened = SimulatedStore::open(disk.store->crash(0, CrashMode::keep_all));
  auto channel = SyncChannel::open(*reopened).value();
  auto data = filled(4096, 0);
  ASSERT_TRUE(channel->read(0, data));
  EXPECT_EQ(data, filled(4096, 1));
  ASSERT_TRUE(channel->write(0, filled(4096, 7)));
  EXPECT_EQ(sector_value(disk.store->newest(), 0), 1);
  EXPECT_EQ(sector_value(reopened->crash(0, CrashMode::drop_all), 0), 1);
}

TEST(SimulatedStore, CountsOperations) {
  Disk disk;
  disk.write(0, 4096, 1);
  disk.write(0, 512, 1);
  ASSERT_TRUE(disk.channel->flush());
  ASSERT_TRUE(disk.channel->discard(0, 4096));
  ASSERT_TRUE(disk.channel->zero(0, 4096));
  auto data = filled(1024, 0);
  ASSERT_TRUE(disk.channel->read(0, data));
  const auto counters = disk.store->counters();
  EXPECT_EQ(counters.writes, 2U);
  EXPECT_EQ(counters.flushes, 1U);
  EXPECT_EQ(counters.discards, 1U);
  EXPECT_EQ(counters.zeroes, 1U);
  EXPECT_EQ(counters.reads, 1U);
  EXPECT_EQ(counters.changes(), 5U);
  EXPECT_EQ(counters.bytes_written, 4608U);
  EXPECT_EQ(counters.bytes_read, 1024U);
}

TEST(SimulatedStore, KeepsTheWaistsRules) {
  Disk disk;
  auto data = filled(1024, 0);
  EXPECT_EQ(disk.channel->read(100, data).error().errno_value, EINVAL);
  EXPECT_EQ(disk.channel->write(disk_size - 512, data).error().errno_value, EINVAL);
  auto read_only = SimulatedStore::open(SparseImage(disk_size), {.read_only = true});
  EXPECT_EQ(SyncChannel::open(*read_only).value()->write(0, data).error().errno_value, EROFS);
}

TEST(SimulatedStore, WithoutInlineCompletionAFlushCoversOnlyWhatHadCompleted) {
  auto store = SimulatedStore::open(SparseImage(disk_size), {.complete_inline = false});
  auto loop = EventLoop::create({}).value();
  auto channel = store->open_channel(*loop).value();
  struct Noted : IoRequest {
    bool done = false;
  } first, second, flush;
  auto data = filled(512, 4);
  const iovec buffer{data.data(), data.size()};
  for (Noted* request : {&first, &second, &flush}) {
    request->complete = [](IoRequest& self, int) { static_cast<Noted&>(self).done = true; };
  }
  for (Noted* request : {&first, &second}) {
    request->op = IoOp::write;
    request->length = 512;
    request->buffers = &buffer;
    request->buffer_count = 1;
  }
  second.offset = 4096;
  flush.op = IoOp::flush;

  channel->submit(first);
  EXPECT_FALSE(first.done);
  while (!first.done) ASSERT_TRUE(loop->poll(true));
  channel->submit(second);
  channel->submit(flush);
  while (!second.done || !flush.done) ASSERT_TRUE(loop->poll(true));
  const auto image = store->crash(0, CrashMode::drop_all);
  EXPECT_EQ(sector_value(image, 0), 4);
  EXPECT_EQ(sector_value(image, 4096), 0);
  EXPECT_EQ(sector_value(store->crash(0, CrashMode::keep_all), 4096), 4);
}

TEST(SimulatedStore, GrowsAndLocates) {
  Disk disk;
  disk.write(4096, 4096, 1);
  disk.store->set_size(2 * disk_size);
  EXPECT_EQ(disk.store->geometry().size, 2 * disk_size);
  std::vector<blockdev::Range> ranges;
  ASSERT_TRUE(disk.store->locate(0, 2 * disk_size, [&](const auto& range) {
    ranges.push_back(range);
    return true;
  }));
  ASSERT_EQ(ranges.size(), 3U);
  EXPECT_EQ(ranges[1].offset, 4096U);
  EXPECT_EQ(ranges[1].length, 4096U);
  EXPECT_EQ(ranges[1].kind, blockdev::RangeKind::data);
  EXPECT_EQ(ranges[2].offset + ranges[2].length, 2 * disk_size);
  EXPECT_EQ(disk.store->newest().allocated_bytes(), 4096U);
}

TEST(SparseImage, ComparesByContent) {
  SparseImage a(8192), b(8192);
  a.write(0, filled(4096, 0));
  EXPECT_TRUE(a == b);
  b.write(5000, filled(1, 1));
  EXPECT_FALSE(a == b);
  EXPECT_FALSE(SparseImage(4096) == SparseImage(8192));
}

TEST(SparseImage, ShrinkingForgets) {
  SparseImage image(8192);
  image.write(0, filled(8192, 3));
  image.set_size(1000);
  image.set_size(8192);
  EXPECT_EQ(sector_value(image, 0), 3);
  EXPECT_EQ(sector_value(image, 1024), 0);
  EXPECT_EQ(sector_value(image, 4096), 0);
}

TEST(NullStore, ReadsZerosAndForgets) {
  NullStore store(disk_size);
  auto channel = SyncChannel::open(store).value();
  auto data = filled(4096, 1);
  ASSERT_TRUE(channel->write(0, data));
  ASSERT_TRUE(channel->read(0, data));
  EXPECT_EQ(data, filled(4096, 0));
  EXPECT_FALSE(channel->read(disk_size, data));
}

}  // namespace
}  // namespace tidepool::test
