#include "fs/pool/superblock.h"


#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/codec.h"
#include "base/size_text.h"
#include "blockdev/extent_map.h"
#include "fs/pool/checkpoint_format.h"
#include "fs/pool/pool.h"

namespace tidepool::pool {

using blockdev::PackedExtent;

namespace {

constexpr std::array<char, 8> magic = {'T', 'I', 'D', 'E', 'P', 'O', 'O', 'L'};
constexpr std::size_t hash_at = Superblock::encoded_size - 8;
constexpr std::uint64_t header_bytes = 64 * 1024;  // both slots, and room
constexpr std::uint64_t min_pool_bytes = 16 * 1024 * 1024;
constexpr std::uint64_t max_pool_bytes = PackedExtent::block_limit * block_size;

std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

bool area_fits(const Area& area, std::uint64_t pool_bytes) {
  return area.offset >= header_bytes && area.offset % block_size == 0 && area.length > 0 &&
         area.length % block_size == 0 && area.offset < pool_bytes &&
         area.length <= pool_bytes - area.offset;
}

bool overlap(const Area& a, const Area& b) {
  return a.offset < b.offset + b.length && b.offset < a.offset + a.length;
}

}  // namespace

std::array<std::byte, Superblock::encoded_size> encode(const Superblock& s) {
  std::vector<std::byte> out;
  Encoder e(out);
  e.bytes(std::as_bytes(std::span(magic)));
  e.u32(Superblock::version);
  e.u32(block_size);
  e.bytes(std::as_bytes(std::span(s.uuid)));
  e.u64(s.generation);
  e.u64(s.pool_bytes);
  e.u32(s.chunk_bytes);
  e.u64(s.node_limit);
  e.u64(s.next_node);
  for (const Area& area : {s.journal, s.checkpoints[0], s.checkpoints[1]}) {
    e.u64(area.offset);
    e.u64(area.length);
  }
  e.u32(s.active_checkpoint);
  e.u64(s.checkpoint_pages);
  e.u8(s.clean ? 1 : 0);
  std::array<std::byte, Superblock::encoded_size> slot{};
  std::copy(out.begin(), out.end(), slot.begin());
  std::uint64_t hash = XXH3_64bits(slot.data(), hash_at);
  std::memcpy(slot.data() + hash_at, &hash, sizeof hash);
  return slot;
}

SlotState decode(std::span<const std::byte> slot, Superblock& out) {
  if (slot.size() < Superblock::encoded_size) return SlotState::absent;
  slot = slot.first(Superblock::encoded_size);
  std::uint64_t stored = 0;
  std::memcpy(&stored, slot.data() + hash_at, sizeof stored);
  bool hash_ok = stored == XXH3_64bits(slot.data(), hash_at);
  bool magic_ok = std::memcmp(slot.data(), magic.data(), magic.size()) == 0;
  if (!hash_ok) return magic_ok ? SlotState::corrupt : SlotState::absent;
  if (!magic_ok) return SlotState::absent;
  Decoder d(slot.subspan(magic.size()));
  if (d.u32() != Superblock::version) return SlotState::newer;
  std::uint32_t blocks_of = d.u32();
  auto uuid = d.bytes(out.uuid.size());
  std::memcpy(out.uuid.data(), uuid.data(), uuid.size());
  out.generation = d.u64();
  out.pool_bytes = d.u64();
  out.chunk_bytes = d.u32();
  out.node_limit = d.u64();
  out.next_node = d.u64();
  for (Area* area : {&out.journal, &out.checkpoints[0], &out.checkpoints[1]}) {
    area->offset = d.u64();
    area->length = d.u64();
  }
  out.active_checkpoint = d.u32();
  out.checkpoint_pages = d.u64();
  out.clean = d.u8() != 0;
  bool sane =
      blocks_of == block_size && out.pool_bytes >= min_pool_bytes &&
      out.pool_bytes <= max_pool_bytes && std::has_single_bit(out.chunk_bytes) &&
      out.chunk_bytes >= 64 * 1024 && out.chunk_bytes <= 16 * 1024 * 1024 &&
      out.pool_bytes % block_size == 0 && out.journal.offset == header_bytes &&
      area_fits(out.journal, out.pool_bytes) && area_fits(out.checkpoints[0], out.pool_bytes) &&
      area_fits(out.checkpoints[1], out.pool_bytes) && !overlap(out.journal, out.checkpoints[0]) &&
      !overlap(out.journal, out.checkpoints[1]) &&
      !overlap(out.checkpoints[0], out.checkpoints[1]) && out.active_checkpoint <= 1 &&
      out.node_limit <= 1u << 24 && out.next_node > root_id && out.next_node <= node_id_limit;
  if (sane) {
    const Area& active = out.checkpoints[out.active_checkpoint];
    sane = out.checkpoint_pages > 0 && out.checkpoint_pages <= active.length / page_bytes;
  }
  return sane ? SlotState::valid : SlotState::corrupt;
}

std::uint64_t checkpoint_area_bytes(std::uint64_t pool_bytes, std::uint64_t node_limit) {
  std::uint64_t extents = pool_bytes / block_size * sizeof(PackedExtent);
  std::uint64_t nodes = node_limit * 512;  // the longest node record, and a started map record
  return round_up(extents + extents / 512 + nodes + page_bytes, page_bytes);
}

Result<Superblock> lay_out(std::uint64_t bytes, std::uint32_t chunk_bytes) {
  if (!std::has_single_bit(chunk_bytes) || chunk_bytes < 64 * 1024 ||
      chunk_bytes > 16 * 1024 * 1024)
    return fail(ErrorKind::invalid_argument,
                "a chunk of {}: it must be a power of two from 64K to 16M",
                format_size_exactly(chunk_bytes));
  std::uint64_t pool_bytes = bytes / chunk_bytes * chunk_bytes;
  if (pool_bytes < min_pool_bytes)
    return fail(ErrorKind::invalid_argument, "a pool of {} is too small: it needs {} at least",
                format_size(bytes), format_size(min_pool_bytes));
  if (pool_bytes > max_pool_bytes)
    return fail(ErrorKind::invalid_argument, "a pool of {} is too large: {} at most",
                format_size(bytes), format_size(max_pool_bytes));
  Superblock s;
  s.uuid = new_uuid();
  s.pool_bytes = pool_bytes;
  s.chunk_bytes = chunk_bytes;
  s.node_limit = std::clamp<std::uint64_t>(pool_bytes / block_size / 128, 256, 65536);
  s.next_node = root_id + 1;
  std::uint64_t area = checkpoint_area_bytes(pool_bytes, s.node_limit);
  s.journal = {header_bytes, std::clamp<std::uint64_t>(round_up(pool_bytes / 256, 64 * 1024),
                                                       256 * 1024, 64 * 1024 * 1024)};
  s.checkpoints[0] = {s.journal.offset + s.journal.length, area};
  s.checkpoints[1] = {s.checkpoints[0].offset + area, area};
  return s;
}

}  // namespace tidepool::pool
