#include "fs/pool/superblock.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <set>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "blockdev/extent_map.h"
#include "fs/pool/checkpoint_format.h"
#include "fs/pool/pool.h"

namespace tidepool::pool {

using blockdev::PackedExtent;
namespace {

using Slot = std::array<std::byte, Superblock::encoded_size>;

Superblock sample() {
  auto superblock = lay_out(64 * 1024 * 1024, 1024 * 1024);
  superblock->generation = 42;
  superblock->next_node = 77;
  superblock->active_checkpoint = 1;
  superblock->checkpoint_pages = 3;
  superblock->clean = true;
  return *superblock;
}

// As a writer that has its checksum right and the rest wrong.
void seal(Slot& slot) {
  std::uint64_t hash = XXH3_64bits(slot.data(), slot.size() - sizeof hash);
  std::memcpy(slot.data() + slot.size() - sizeof hash, &hash, sizeof hash);
}

void expect_equal(const Area& a, const Area& b) {
  EXPECT_EQ(a.offset, b.offset);
  EXPECT_EQ(a.length, b.length);
}

TEST(Superblock, RoundTrip) {
  Superblock in = sample(), out;
  ASSERT_EQ(decode(encode(in), out), SlotState::valid);
  EXPECT_EQ(out.uuid, in.uuid);
  EXPECT_EQ(out.generation, in.generation);
  EXPECT_EQ(out.pool_bytes, in.pool_bytes);
  EXPECT_EQ(out.chunk_bytes, in.chunk_bytes);
  EXPECT_EQ(out.node_limit, in.node_limit);
  EXPECT_EQ(out.next_node, in.next_node);
  expect_equal(out.journal, in.journal);
  expect_equal(out.checkpoints[0], in.checkpoints[0]);
  expect_equal(out.checkpoints[1], in.checkpoints[1]);
  EXPECT_EQ(out.active_checkpoint, in.active_checkpoint);
  EXPECT_EQ(out.checkpoint_pages, in.checkpoint_pages);
  EXPECT_EQ(out.clean, in.clean);
}

TEST(Superblock, NothingThere) {
  Slot slot{};
  Superblock out;
  EXPECT_EQ(decode(slot, out), SlotState::absent);
  EXPECT_EQ(decode(std::span(slot).first(100), out), SlotState::absent);
  slot.fill(std::byte{0xa5});
  EXPECT_EQ(decode(slot, out), SlotState::absent);
}

TEST(Superblock, EveryFlippedBitIsSeen) {
  Slot slot = encode(sample());
  Superblock out;
  for (std::size_t bit = 0; bit < slot.size() * 8; ++bit) {
    Slot damaged = slot;
    damaged[bit / 8] ^= std::byte{1} << (bit % 8);
    SlotState state = decode(damaged, out);
    EXPECT_EQ(state, bit < 64 ? SlotState::absent : SlotState::corrupt) << "bit " << bit;
  }
}

TEST(Superblock, ANewerVersionIsSaidToBeNewer) {
  Slot slot = encode(sample());
  std::uint32_t version = Superblock::version + 1;
  std::memcpy(slot.data() + 8, &version, sizeof version);
  seal(slot);
  Superblock out;
  EXPECT_EQ(decode(slot, out), SlotState::newer);
}

// Bounds hold even where the checksum is right.
TEST(Superblock, FieldsOutOfBounds) {
  auto refused = [](auto change) {
    Superblock s = sample(), out;
    change(s);
    return decode(encode(s), out) == SlotState::corrupt;
  };
  EXPECT_FALSE(refused([](Superblock&) {}));
  EXPECT_TRUE(refused([](Superblock& s) { s.pool_bytes = 0; }));
  EXPECT_TRUE(refused([](Superblock& s) { s.pool_bytes = ~std::uint64_t{0}; }));
  EXPECT_TRUE(refused([](Superblock& s) { s.pool_bytes += 1; }));
  EXPECT_TRUE(refused([](Superblock& s) { s.chunk_bytes = 0; }));
  EXPECT_TRUE(refused([](Superblock& s) { s.chunk_bytes = 3 << 16; }));
  EXPECT_TRUE(refused([](Superblock& s) { s.chunk_bytes = 32 << 20; }));
  EXPECT_TRUE(refused([](Superblock& s) { s.journal.offset = 0; }));
  EXPECT_TRUE(refused([](Superblock& s) { s.journal.offset += block_size; }));
  EXPECT_TRUE(refused([](Superblock& s) { s.journal.length = 0; }));
  EXPECT_TRUE(refused([](Superblock& s) { s.journal.length += block_size; }));  // into the next
  EXPECT_TRUE(refused([](Superblock& s) { s.checkpoints[0] = s.checkpoints[1]; }));
  EXPECT_TRUE(refused([](Superblock& s) { s.checkpoints[1].offset = s.pool_bytes; }));
  EXPECT_TRUE(refused([](Superblock& s) { s.checkpoints[1].length = ~std::uint64_t{4095}; }));
  EXPECT_TRUE(refused([](Superblock& s) { s.active_checkpoint = 2; }));
  EXPECT_TRUE(refused([](Superblock& s) { s.checkpoint_pages = 0; }));
  EXPECT_TRUE(refused(
      [](Superblock& s) { s.checkpoint_pages = s.checkpoints[1].length / page_bytes + 1; }));
  EXPECT_TRUE(refused([](Superblock& s) { s.node_limit = std::uint64_t{1} << 40; }));
  EXPECT_TRUE(refused([](Superblock& s) { s.next_node = root_id; }));
  EXPECT_TRUE(refused([](Superblock& s) { s.next_node = ~std::uint64_t{0}; }));
}

class Layout : public testing::TestWithParam<std::uint64_t> {};
INSTANTIATE_TEST_SUITE_P(, Layout,
                         testing::Values(16ULL << 20, (16ULL << 20) + 12345, 1ULL << 30,
                                         10ULL << 30, 1ULL << 40, 64ULL << 40));

TEST_P(Layout, IsValidAndLeavesSpaceForData) {
  for (std::uint32_t chunk : {64u << 10, 1u << 20, 16u << 20}) {
    auto s = lay_out(GetParam(), chunk);
    ASSERT_TRUE(s) << s.error().message;
    EXPECT_EQ(s->pool_bytes % chunk, 0U);
    EXPECT_LE(s->pool_bytes, GetParam());
    s->checkpoint_pages = 1;
    Superblock out;
    EXPECT_EQ(decode(encode(*s), out), SlotState::valid);
    std::uint64_t metadata =
        s->journal.offset + s->journal.length + s->checkpoints[0].length + s->checkpoints[1].length;
    EXPECT_LT(metadata, s->pool_bytes / 10);
    // Every block an extent of its own, and as many nodes as there may be.
    std::uint64_t payload = s->checkpoints[0].length / page_bytes * page_payload_bytes;
    EXPECT_GE(payload, s->pool_bytes / block_size * sizeof(PackedExtent) + s->node_limit * 380);
  }
}

TEST(LayOut, RefusesWhatMakesNoSense) {
  EXPECT_EQ(lay_out(1 << 20, 1 << 20).error().kind, ErrorKind::invalid_argument);
  EXPECT_EQ(lay_out(1ULL << 60, 1 << 20).error().kind, ErrorKind::invalid_argument);
  EXPECT_EQ(lay_out(1ULL << 30, 100'000).error().kind, ErrorKind::invalid_argument);
  EXPECT_EQ(lay_out(1ULL << 30, 32 << 10).error().kind, ErrorKind::invalid_argument);
  EXPECT_EQ(lay_out(1ULL << 30, 0).error().kind, ErrorKind::invalid_argument);
}

TEST(Uuid, IsRandomAndReadsAsVersionFour) {
  std::set<std::string> seen;
  for (int i = 0; i < 100; ++i) {
    std::string text = to_text(new_uuid());
    ASSERT_EQ(text.size(), 36U);
    EXPECT_EQ(text[14], '4');
    EXPECT_NE(std::string("89ab").find(text[19]), std::string::npos);
    EXPECT_TRUE(seen.insert(text).second);
  }
}

TEST(Superblock, BatchNumbersFollowTheGeneration) {
  EXPECT_GT(first_batch(2), first_batch(1) + 1'000'000);
}

}  // namespace
}  // namespace tidepool::pool
