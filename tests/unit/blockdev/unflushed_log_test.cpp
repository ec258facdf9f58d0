#include "blockdev/stores/unflushed_log.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <utility>

namespace tidepool::blockdev {
namespace {

std::vector<std::byte> bytes(std::size_t size, int value) {
  return std::vector<std::byte>(size, static_cast<std::byte>(value));
}

TEST(UnflushedLog, AFlushDropsWhatWasThereWhenItWasSent) {
  UnflushedLog log;
  log.add(IoOp::write, 0, 512, bytes(512, 1));
  const auto flush = log.begin_sync();
  log.add(IoOp::discard, 512, 4096, {});
  log.end_sync(flush, true);
  ASSERT_EQ(log.entries().size(), 1U);
  EXPECT_EQ(log.entries().front().op, IoOp::discard);
  EXPECT_EQ(log.memory_bytes(), UnflushedLog::entry_cost);
  log.end_sync(flush, true);  // once only
  EXPECT_EQ(log.entries().size(), 1U);
  log.clear();
  EXPECT_TRUE(log.entries().empty());
  EXPECT_EQ(log.memory_bytes(), 0U);
}

TEST(UnflushedLog, KeepsWhatAFlushCoveredUntilOthersUnderWayAreAnswered) {
  UnflushedLog log;
  log.add(IoOp::write, 0, 512, bytes(512, 1));
  const auto stable_write = log.begin_sync();
  const auto flush = log.begin_sync();
  const auto later_flush = log.begin_sync();
  log.end_sync(flush, true);
  EXPECT_EQ(log.entries().size(), 1U);
  const auto after_it = log.begin_sync();
  log.end_sync(stable_write, false);
  EXPECT_EQ(log.entries().size(), 1U);
  log.end_sync(later_flush, true);
  EXPECT_TRUE(log.entries().empty());  // after_it was begun too late to know of it
  EXPECT_TRUE(log.is_syncing());
  log.end_sync(after_it, true);
  EXPECT_FALSE(log.is_syncing());
}

TEST(UnflushedLog, AFailureKeepsWhatAnotherFlushCovered) {
  UnflushedLog log;
  log.add(IoOp::write, 0, 512, bytes(512, 1));
  const auto failing = log.begin_sync();
  const auto flush = log.begin_sync();
  log.end_sync(flush, true);
  log.forget_syncs();
  log.end_sync(failing, true);
  EXPECT_EQ(log.entries().size(), 1U);
  log.end_sync(log.begin_sync(), true);
  EXPECT_TRUE(log.entries().empty());
}

TEST(UnflushedLog, KnowsWhatOverlaps) {
  const auto entry = [](std::uint64_t offset, std::uint64_t length) {
    return UnflushedLog::Entry{.offset = offset, .length = length, .data = {}};
  };
  EXPECT_TRUE(entry(0, 10).overlaps(entry(9, 1)));
  EXPECT_FALSE(entry(0, 10).overlaps(entry(10, 1)));
  EXPECT_FALSE(entry(10, 5).overlaps(entry(0, 10)));
  EXPECT_TRUE(entry(3, 1).overlaps(entry(0, 10)));
}

// A disk that loses any part of what is not flushed has, after the replay, the
// content that was acknowledged.
TEST(UnflushedLog, AReplayRestoresEveryByte) {
  constexpr std::size_t size = 256;
  for (unsigned seed = 1; seed <= 200; ++seed) {
    std::mt19937 random(seed);
    UnflushedLog log;
    std::vector<std::byte> latest(size), stable(size);
    std::vector<std::pair<UnflushedLog::Sync, std::vector<std::byte>>> flushes;  // sent, not answered
    for (int step = 0; step < 400; ++step) {
      const std::uint64_t offset = random() % size;
      const std::uint64_t length = 1 + random() % (size - offset);
      const auto at = latest.begin() + static_cast<std::ptrdiff_t>(offset);
      switch (random() % 5) {
        case 0:
        case 1: {
          const auto data = bytes(length, static_cast<int>(random() % 255) + 1);
          log.add(IoOp::write, offset, length, data);
          std::copy(data.begin(), data.end(), at);
          break;
        }
        case 2:
          log.add(random() % 2 == 0 ? IoOp::zero : IoOp::discard, offset, length, {});
          std::fill_n(at, length, std::byte{});
          break;
        case 3:
          flushes.emplace_back(log.begin_sync(), latest);
          break;
        case 4:
          if (flushes.empty()) break;
          log.end_sync(flushes.front().first, true);
          stable = flushes.front().second;
          flushes.erase(flushes.begin());
          break;
      }
    }
    // Of what followed the flush, any of the newer contents may be there, byte by byte.
    std::vector<std::byte> disk = stable;
    for (const auto& entry : log.entries()) {
      for (std::uint64_t i = 0; i < entry.length; ++i) {
        if (random() % 2 == 0)
          disk[entry.offset + i] = entry.data.empty() ? std::byte{} : entry.data[i];
      }
    }
    for (const auto& entry : log.entries()) {
      for (std::uint64_t i = 0; i < entry.length; ++i)
        disk[entry.offset + i] = entry.data.empty() ? std::byte{} : entry.data[i];
    }
    ASSERT_EQ(disk, latest) << "seed " << seed;
  }
}

}  // namespace
}  // namespace tidepool::blockdev
