// BlockAllocator against a table of bits.
#include "fs/pool/block_allocator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

namespace tidepool::pool {
namespace {

constexpr std::uint32_t per_chunk = 16;

// Free runs, free counts and chunk states all follow from the bits.
void expect_same(const BlockAllocator& allocator, const std::vector<bool>& used) {
  ASSERT_EQ(allocator.blocks(), used.size());
  std::uint64_t free = 0;
  for (std::uint64_t b = 0; b < used.size(); ++b) {
    ASSERT_EQ(allocator.is_free(b), !used[b]) << b;
    free += used[b] ? 0 : 1;
  }
  ASSERT_EQ(allocator.free_blocks(), free);
  std::uint64_t in_runs = 0, last_end = 0;
  allocator.for_free_runs([&](const pool::Run& run) {
    EXPECT_GT(run.count, 0U);
    EXPECT_TRUE(run.start == 0 || used[run.start - 1]);
    EXPECT_TRUE(run.start + run.count == used.size() || used[run.start + run.count]);
    EXPECT_GE(run.start, last_end);
    for (std::uint64_t b = run.start; b < run.start + run.count; ++b) EXPECT_FALSE(used[b]) << b;
    last_end = run.start + run.count;
    in_runs += run.count;
  });
  ASSERT_EQ(in_runs, free);
  for (std::uint64_t chunk = 0; chunk * per_chunk + per_chunk <= used.size(); ++chunk) {
    auto begin = used.begin() + static_cast<std::ptrdiff_t>(chunk * per_chunk);
    bool all_free = std::find(begin, begin + per_chunk, true) == begin + per_chunk;
    ASSERT_EQ(allocator.chunk_is_free(chunk), all_free) << chunk;
  }
}

TEST(BlockAllocator, AgreesWithATableOfBits) {
  // Not a multiple of a word, a chunk, or a segment.
  std::uint64_t blocks = 4 * BlockAllocator::chunks_per_segment * per_chunk + 5 * per_chunk + 7;
  BlockAllocator allocator(blocks, per_chunk);
  std::vector<bool> used(blocks, false);
  std::vector<pool::Run> taken;
  std::mt19937_64 random(11);
  auto mark = [&](const pool::Run& run, bool value) {
    for (std::uint64_t b = run.start; b < run.start + run.count; ++b) {
      EXPECT_NE(used[b], value) << b;
      used[b] = value;
    }
  };
  for (int step = 0; step < 60'000; ++step) {
    std::uint64_t start = random() % blocks, most = 1 + random() % 80;
    switch (random() % 6) {
      case 0: {
        std::uint64_t expected = 0;
        while (expected < most && start + expected < blocks && !used[start + expected]) ++expected;
        ASSERT_EQ(allocator.take(start, most), expected);
        if (expected > 0) taken.push_back({start, expected});
        mark({start, expected}, true);
        break;
      }
      case 1: {
        auto run = allocator.take_any(most);
        bool full = std::find(used.begin(), used.end(), false) == used.end();
        ASSERT_EQ(run.has_value(), !full);
        if (!run) break;
        ASSERT_TRUE(run->count >= 1 && run->count <= most);
        mark(*run, true);
        taken.push_back(*run);
        break;
      }
      case 2: {
        bool fits = start + most <= blocks &&
                    std::find(used.begin() + static_cast<std::ptrdiff_t>(start),
                              used.begin() + static_cast<std::ptrdiff_t>(start + most),
                              true) == used.begin() + static_cast<std::ptrdiff_t>(start + most);
        ASSERT_EQ(allocator.mark_used(start, most), fits);
        if (!fits) break;
        mark({start, most}, true);
        taken.push_back({start, most});
        break;
      }
      case 3: {
        auto owner = static_cast<BlockAllocator::Owner>(1 + random() % 5);
        auto after = random() % 2 ? std::optional(random() % (blocks / per_chunk)) : std::nullopt;
        auto chunk = allocator.place_chunk(owner, after);
        ASSERT_TRUE(!chunk || allocator.chunk_is_free(*chunk));
        if (random() % 50 == 0) allocator.drop_claims(owner);
        break;
      }
      default: {  // gives back a part of something
        if (taken.empty()) break;
        std::swap(taken[random() % taken.size()], taken.back());
        pool::Run run = taken.back();
        taken.pop_back();
        std::uint64_t cut = random() % run.count;
        if (cut > 0) taken.push_back({run.start, cut});
        allocator.give(run.start + cut, run.count - cut);
        mark({run.start + cut, run.count - cut}, false);
      }
    }
    if (step % 20'000 == 19'999) {
      blocks += 3 * per_chunk + 5;
      allocator.grow(blocks);
      used.resize(blocks, false);
    }
    if (step % 500 == 0) expect_same(allocator, used);
    if (testing::Test::HasFailure()) FAIL() << "at step " << step;
  }
  expect_same(allocator, used);
}

TEST(BlockAllocator, EveryFreeBlockCanBeHad) {
  constexpr std::uint64_t blocks = 100'003;
  BlockAllocator allocator(blocks, per_chunk);
  for (BlockAllocator::Owner owner = 1; owner < 200; ++owner) {  // claims steer, never refuse
    auto chunk = allocator.place_chunk(owner, std::nullopt);
    ASSERT_TRUE(chunk);
    ASSERT_GT(allocator.take(*chunk * per_chunk, 3), 0U);
  }
  std::uint64_t left = allocator.free_blocks(), got = 0;
  while (auto run = allocator.take_any(7)) got += run->count;
  EXPECT_EQ(got, left);
  EXPECT_EQ(allocator.free_blocks(), 0U);
  EXPECT_FALSE(allocator.place_chunk(1, std::nullopt));
  allocator.give(77'777, 1);
  EXPECT_EQ(allocator.take_any(5)->start, 77'777U);
}

TEST(BlockAllocator, RefusesRangesOutsideThePool) {
  BlockAllocator allocator(100, per_chunk);
  EXPECT_FALSE(allocator.mark_used(100, 1));
  EXPECT_FALSE(allocator.mark_used(99, 2));
  EXPECT_FALSE(allocator.mark_used(50, ~std::uint64_t{0} - 20));
  EXPECT_EQ(allocator.take(100, 5), 0U);
  EXPECT_EQ(allocator.take(95, 50), 5U);
  EXPECT_EQ(allocator.free_blocks(), 95U);
}

// Streams that are written at the same time stay in segments of their own, even
// chunk by chunk in turn.
TEST(BlockAllocator, KeepsInterleavedStreamsApart) {
  constexpr std::uint64_t segment = BlockAllocator::chunks_per_segment;
  constexpr BlockAllocator::Owner streams = 8;
  constexpr std::uint64_t chunks_each = 3 * segment;
  BlockAllocator allocator(streams * (chunks_each + segment) * per_chunk, per_chunk);
  std::map<BlockAllocator::Owner, std::vector<std::uint64_t>> placed;
  for (std::uint64_t i = 0; i < chunks_each; ++i)
    for (BlockAllocator::Owner owner = 1; owner <= streams; ++owner) {
      auto& chunks = placed[owner];
      auto chunk = allocator.place_chunk(
          owner, chunks.empty() ? std::nullopt : std::optional(chunks.back()));
      ASSERT_TRUE(chunk);
      ASSERT_EQ(allocator.take(*chunk * per_chunk, per_chunk), per_chunk);
      chunks.push_back(*chunk);
    }
  for (const auto& [owner, chunks] : placed) {
    std::uint64_t breaks = 0;
    for (std::size_t i = 1; i < chunks.size(); ++i) breaks += chunks[i] != chunks[i - 1] + 1;
    EXPECT_LE(breaks, chunks_each / segment) << "stream " << owner;
  }
}

}  // namespace
}  // namespace tidepool::pool
