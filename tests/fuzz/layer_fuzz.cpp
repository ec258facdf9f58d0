// A layer's header, journal records, index pages and hash sectors: as they come,
// and with their checksums made right.
#include <algorithm>
#include <array>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "blockdev/chain/layer_format.h"
#include "blockdev/chain/layer_map.h"
#include "tests/fuzz/target.h"

namespace tidepool::test {

using namespace blockdev;
using namespace blockdev::chain;

namespace {

LayerHeader sample() {
  LayerHeader header = *lay_out_layer(std::uint64_t{1} << 20);
  header.uuid = {};
  header.first_batch = 3;
  header.parent = {ParentKind::layer, "parent", {}, 1, header.size, 0};
  header.name = "name";
  return header;
}

void judge_header(std::span<const std::byte> input) {
  LayerHeader header;
  if (decode(input, header) != HeaderState::valid) return;
  require(header.data().end() > header.hashes().end(), "areas have a size");
  LayerHeader again;
  require(decode(encode(header), again) == HeaderState::valid && again == header,
          "a header that was read can be written");
}

void judge_records(std::span<const std::byte> input, const LayerHeader& header) {
  LayerMap map(header.slots);
  auto read = decode_records(input, header, [&](const LayerRecord& r) { map.replay(r); });
  if (!read) return;
  map.loaded();
  require(map.high_water() <= header.slots, "no slot beyond the data area");
}

void judge_page(std::span<const std::byte> page, const LayerHeader& header) {
  std::vector<Extent> extents;
  std::uint64_t end = 0;
  if (!decode_index_page(page, header, 0, end, extents)) return;
  require(end <= header.blocks(), "no block beyond the disk");
}

}  // namespace

std::vector<Input> seeds() {
  const LayerHeader header = sample();
  const auto encoded = encode(header);
  const std::array<std::uint64_t, 2> hashes{1, 2};
  Input records;
  append(records, {LayerRecord::Kind::map, 7, 2, 9, hashes});
  append(records, {.kind = LayerRecord::Kind::zero, .block = 3, .count = 200});
  append(records, {.kind = LayerRecord::Kind::forget, .block = 8, .count = 1});
  Input page(index_page_bytes), sector(hash_sector_bytes);
  const std::array<PackedExtent, 2> extents{PackedExtent::pack({1, 2, 3, false}),
                                            PackedExtent::pack({9, 9, 30, true})};
  encode_index_page(page, header.salt(), header.first_batch, 0, extents);
  encode_hash_sector(sector, header.salt(), 0, {});
  return {Input(encoded.begin(), encoded.end()), records, page, sector};
}

void run_one(std::span<const std::byte> input) {
  const LayerHeader header = sample();
  judge_header(input);
  judge_records(input, header);
  if (input.size() >= hash_sector_bytes) {
    HashSector hashes;
    (void)decode_hash_sector(input.first(hash_sector_bytes), header.salt(), 0, hashes);
  }
  if (input.size() < index_page_bytes) return;
  judge_page(input.first(index_page_bytes), header);
  Input sealed(input.begin(), input.begin() + index_page_bytes);
  std::uint64_t sum = XXH3_64bits_withSeed(&sealed[8], index_page_bytes - 8, header.salt());
  std::memcpy(sealed.data(), &sum, sizeof sum);
  judge_page(sealed, header);
  sealed.assign(input.begin(), input.begin() + index_page_bytes);
  sum = XXH3_64bits_withSeed(sealed.data(), index_page_bytes - 8, 0);
  std::memcpy(&sealed[index_page_bytes - 8], &sum, sizeof sum);
  judge_header(sealed);
}

}  // namespace tidepool::test
