#include "blockdev/journal_format.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace tidepool::blockdev {

namespace {

struct SectorHeader {
  std::uint64_t hash = 0;  // XXH3 of the rest of the sector, seeded with the salt
  std::uint64_t batch = 0;
  std::uint32_t index = 0;   // of the sector in its batch
  std::uint32_t count = 0;   // sectors in the batch
  std::uint32_t length = 0;  // record bytes in this sector
  std::uint32_t zero = 0;
};
static_assert(sizeof(SectorHeader) == journal_header_bytes);

std::uint64_t hash_of(const std::byte* sector, std::uint64_t salt) {
  return XXH3_64bits_withSeed(sector + sizeof(std::uint64_t),
                              journal_sector_bytes - sizeof(std::uint64_t), salt);
}

enum class Sector : std::uint8_t { valid, blank, damaged };

Sector read_sector(const std::byte* sector, std::uint64_t salt, SectorHeader& header) {
  std::memcpy(&header, sector, sizeof header);
  if (header.hash == hash_of(sector, salt) && header.length <= journal_payload_bytes)
    return Sector::valid;
  bool blank = std::all_of(sector, sector + journal_sector_bytes,
                           [](std::byte b) { return b == std::byte{0}; });
  return blank ? Sector::blank : Sector::damaged;
}

}  // namespace

void encode_batch(std::span<std::byte> out, std::uint64_t salt, std::uint64_t batch,
                  std::span<const std::byte> records) {
  assert(out.size() == batch_bytes(records.size()) && !records.empty());
  std::fill(out.begin(), out.end(), std::byte{0});
  auto count = static_cast<std::uint32_t>((records.size() + journal_payload_bytes - 1) /
                                          journal_payload_bytes);
  for (std::uint32_t i = 0; i < count; ++i) {
    auto piece = records.subspan(i * journal_payload_bytes);
    piece = piece.first(std::min(piece.size(), journal_payload_bytes));
    std::byte* sector = out.data() + i * journal_sector_bytes;
    SectorHeader header{0, batch, i, count, static_cast<std::uint32_t>(piece.size()), 0};
    std::memcpy(sector, &header, sizeof header);
    std::copy(piece.begin(), piece.end(), sector + journal_header_bytes);
    header.hash = hash_of(sector, salt);
    std::memcpy(sector, &header.hash, sizeof header.hash);
  }
}

Result<std::uint64_t> decode_batch(std::span<const std::byte> journal, std::uint64_t salt,
                                   std::uint64_t batch, std::vector<std::byte>& records) {
  records.clear();
  bool torn = false;
  std::uint32_t count = 0;  // as the first valid sector of this batch says
  std::uint64_t sectors = journal.size() / journal_sector_bytes;
  for (std::uint64_t i = 0; i < sectors && (count == 0 || i < count); ++i) {
    const std::byte* sector = journal.data() + i * journal_sector_bytes;
    SectorHeader header;
    Sector state = read_sector(sector, salt, header);
    if (state == Sector::damaged)
      return fail(ErrorKind::corrupt, "journal batch {}: sector {} fails its checksum", batch, i);
    if (state == Sector::blank || header.batch < batch) {
      torn = true;
    } else if (header.batch > batch || header.index != i || (count != 0 && header.count != count) ||
               header.count <= i || header.count > sectors) {
      return fail(ErrorKind::corrupt, "journal batch {}: sector {} belongs elsewhere", batch, i);
    } else {
      count = header.count;
      auto payload = std::span(sector + journal_header_bytes, header.length);
      records.insert(records.end(), payload.begin(), payload.end());
    }
    // Where even the batch's first unit holds nothing of it, it was not written.
    if (count == 0 && (i + 1) * journal_sector_bytes >= journal_unit_bytes) break;
  }
  if (torn || count == 0) {
    records.clear();
    return 0;
  }
  return batch_bytes((count - 1) * journal_payload_bytes + 1);
}

bool holds_later_batch(std::span<const std::byte> journal, std::uint64_t salt,
                       std::uint64_t batch) {
  for (std::size_t at = 0; at + journal_sector_bytes <= journal.size(); at += journal_unit_bytes) {
    SectorHeader header;
    Sector state = read_sector(journal.data() + at, salt, header);
    if (state == Sector::valid && header.batch > batch) return true;
  }
  return false;
}

}  // namespace tidepool::blockdev
