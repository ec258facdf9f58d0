// The layer's codec: what is written can be read, what is damaged is refused.
#include "blockdev/chain/layer_format.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace tidepool::blockdev::chain {
namespace {

LayerHeader sample() {
  LayerHeader header = *lay_out_layer(std::uint64_t{100} << 30);
  header.generation = 7;
  header.content = 3;
  header.state = LayerState::sealed;
  header.active_index = 1;
  header.index_pages = 12;
  header.first_batch = 99;
  header.closed_batch = 120;
  header.created_seconds = 1'700'000'000;
  header.parent = {ParentKind::layer, "base.layer", new_uuid(), 5, header.size, -1};
  header.name = "before the upgrade";
  return header;
}

TEST(LayerHeader, SurvivesItsEncoding) {
  for (ParentKind kind :
       {ParentKind::none, ParentKind::layer, ParentKind::file, ParentKind::nbd, ParentKind::nfs}) {
    LayerHeader header = sample(), read;
    header.parent.kind = kind;
    if (kind == ParentKind::none) header.parent = {};
    ASSERT_EQ(decode(encode(header), read), HeaderState::valid);
    EXPECT_EQ(read, header);
  }
}

TEST(LayerHeader, EveryFlippedBitIsFound) {
  const auto encoded = encode(sample());
  LayerHeader read;
  for (std::size_t bit = 0; bit < encoded.size() * 8; ++bit) {
    auto damaged = encoded;
    damaged[bit / 8] ^= std::byte{1} << (bit % 8);
    EXPECT_EQ(decode(damaged, read), bit < 64 ? HeaderState::absent : HeaderState::corrupt) << bit;
  }
}

TEST(LayerHeader, ForeignBytesAreNotALayer) {
  LayerHeader read;
  std::array<std::byte, LayerHeader::encoded_size> zeros{};
  EXPECT_EQ(decode(zeros, read), HeaderState::absent);
  EXPECT_EQ(decode(std::span(zeros).first(100), read), HeaderState::absent);
}

TEST(LayerLayout, AreasFollowEachOther) {
  for (std::uint64_t size : {std::uint64_t{512}, std::uint64_t{1} << 20, std::uint64_t{1} << 40,
                             LayerHeader::size_limit}) {
    auto header = lay_out_layer(size);
    ASSERT_TRUE(header) << size;
    EXPECT_EQ(header->journal().offset, 2 * LayerHeader::encoded_size);
    EXPECT_EQ(header->index(0).offset, header->journal().end());
    EXPECT_EQ(header->index(1).offset, header->index(0).end());
    EXPECT_EQ(header->hashes().offset, header->index(1).end());
    EXPECT_EQ(header->data().offset, header->hashes().end());
    EXPECT_GT(header->slots, header->blocks());
    for (std::uint64_t at : {header->journal().end(), header->index(1).offset, header->data().offset})
      EXPECT_EQ(at % 4096, 0u);
  }
  for (std::uint64_t size : {std::uint64_t{0}, std::uint64_t{513}, LayerHeader::size_limit + 512})
    EXPECT_FALSE(lay_out_layer(size)) << size;
}

TEST(LayerRecords, SurviveTheirEncodingAndAreBounded) {
  const LayerHeader header = *lay_out_layer(1 << 20);  // 256 blocks
  const std::array<std::uint64_t, 3> hashes{1, 2, 3};
  std::vector<std::byte> batch;
  append(batch, {LayerRecord::Kind::map, 253, 3, header.slots - 3, hashes});
  append(batch, {.kind = LayerRecord::Kind::zero, .block = 0, .count = 256});
  append(batch, {.kind = LayerRecord::Kind::forget, .block = 255, .count = 1});
  int seen = 0;
  ASSERT_TRUE(decode_records(batch, header, [&](const LayerRecord& record) {
    ++seen;
    if (record.kind != LayerRecord::Kind::map) return;
    EXPECT_EQ(record.block, 253u);
    EXPECT_EQ(record.slot, header.slots - 3);
    EXPECT_TRUE(std::equal(record.hashes.begin(), record.hashes.end(), hashes.begin()));
  }));
  EXPECT_EQ(seen, 3);

  const auto refused = [&](const LayerRecord& record) {
    std::vector<std::byte> one;
    append(one, record);
    return !decode_records(one, header, [](const LayerRecord&) {});
  };
  EXPECT_TRUE(refused({LayerRecord::Kind::map, 254, 3, 0, hashes}));
  EXPECT_TRUE(refused({LayerRecord::Kind::map, 0, 3, header.slots - 2, hashes}));
  EXPECT_TRUE(refused({.kind = LayerRecord::Kind::zero, .block = 0, .count = 257}));
  EXPECT_TRUE(refused({.kind = LayerRecord::Kind::zero, .block = 0, .count = 0}));
  EXPECT_TRUE(refused({.kind = static_cast<LayerRecord::Kind>(9), .block = 0, .count = 1}));
  for (std::size_t cut = 1; cut < 38; ++cut) {
    EXPECT_FALSE(decode_records(std::span(batch).first(cut), header, [](const LayerRecord&) {}))
        << cut;
  }
}

TEST(IndexPage, SurvivesAndIsBounded) {
  LayerHeader header = *lay_out_layer(1 << 20);
  header.first_batch = 4;
  const std::vector<Extent> extents{{0, 5, 10, false}, {10, 10, 6, true}, {250, 0, 5, false}};
  std::vector<PackedExtent> packed;
  for (const Extent& e : extents) packed.push_back(PackedExtent::pack(e));
  std::array<std::byte, index_page_bytes> page;
  encode_index_page(page, header.salt(), 4, 2, packed);
  std::vector<Extent> read;
  std::uint64_t end = 0;
  ASSERT_TRUE(decode_index_page(page, header, 2, end, read));
  EXPECT_EQ(read, extents);
  EXPECT_EQ(end, 255u);

  end = 1;  // overlaps what came before
  EXPECT_FALSE(decode_index_page(page, header, 2, end, read));
  end = 0;
  EXPECT_FALSE(decode_index_page(page, header, 3, end, read));  // in another page's place
  header.first_batch = 5;                                       // of an older index
  EXPECT_FALSE(decode_index_page(page, header, 2, end, read));
  header.first_batch = 4;
  for (std::size_t bit = 0; bit < page.size() * 8; bit += 7) {
    auto damaged = page;
    damaged[bit / 8] ^= std::byte{1} << (bit % 8);
    end = 0;
    EXPECT_FALSE(decode_index_page(damaged, header, 2, end, read)) << bit;
  }
}

TEST(HashSectors, SurviveAndKnowTheirPlace) {
  HashSector hashes, read;
  std::mt19937_64 random(1);
  for (auto& hash : hashes) hash = random();
  std::array<std::byte, hash_sector_bytes> sector;
  encode_hash_sector(sector, 77, 5, hashes);
  ASSERT_TRUE(decode_hash_sector(sector, 77, 5, read));
  EXPECT_EQ(read, hashes);
  EXPECT_FALSE(decode_hash_sector(sector, 77, 6, read));
  EXPECT_FALSE(decode_hash_sector(sector, 78, 5, read));
  sector[100] ^= std::byte{1};
  EXPECT_FALSE(decode_hash_sector(sector, 77, 5, read));
}

TEST(BlockHash, DependsOnContentAndPlace) {
  std::vector<std::byte> data(block_bytes);
  const std::uint64_t hash = hash_block(1, data.data());
  EXPECT_NE(hash, hash_block(2, data.data()));
  data[4095] = std::byte{1};
  EXPECT_NE(hash, hash_block(1, data.data()));
}

}  // namespace
}  // namespace tidepool::blockdev::chain
