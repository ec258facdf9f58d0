#include "fs/pool/checkpoint_format.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/codec.h"

namespace tidepool::pool {

namespace {

// hash u64 | generation u64 | index u64 | length u32 | zero u32 | records | zeros
struct PageHeader {
  std::uint64_t hash = 0;  // XXH3 of the rest of the page
  std::uint64_t generation = 0;
  std::uint64_t index = 0;
  std::uint32_t length = 0;
  std::uint32_t zero = 0;
};
static_assert(sizeof(PageHeader) == page_header_bytes);

std::uint64_t hash_of(std::span<const std::byte> page) {
  return XXH3_64bits(page.data() + sizeof(std::uint64_t), page.size() - sizeof(std::uint64_t));
}

}  // namespace

void encode_page(std::span<std::byte> page, std::uint64_t generation, std::uint64_t index,
                 std::span<const std::byte> records) {
  assert(page.size() == page_bytes && records.size() <= page_payload_bytes);
  PageHeader header{0, generation, index, static_cast<std::uint32_t>(records.size()), 0};
  std::memcpy(page.data(), &header, sizeof header);
  auto rest = std::copy(records.begin(), records.end(), page.begin() + page_header_bytes);
  std::fill(rest, page.end(), std::byte{0});
  header.hash = hash_of(page);
  std::memcpy(page.data(), &header.hash, sizeof header.hash);
}

Result<std::span<const std::byte>> decode_page(std::span<const std::byte> page,
                                               std::uint64_t generation, std::uint64_t index) {
  PageHeader header;
  if (page.size() != page_bytes) return fail(ErrorKind::corrupt, "page {} is cut short", index);
  std::memcpy(&header, page.data(), sizeof header);
  if (header.hash != hash_of(page))
    return fail(ErrorKind::corrupt, "checkpoint page {} fails its checksum", index);
  if (header.generation != generation || header.index != index ||
      header.length > page_payload_bytes)
    return fail(ErrorKind::corrupt, "checkpoint page {} belongs elsewhere (generation {}, page {})",
                index, header.generation, header.index);
  return page.subspan(page_header_bytes, header.length);
}

}  // namespace tidepool::pool
