#include "blockdev/chain/layer_format.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "base/checked.h"
#include "base/codec.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace tidepool::blockdev::chain {

namespace {

constexpr std::array<char, 8> magic{'T', 'I', 'D', 'E', 'L', 'A', 'Y', 'R'};
constexpr std::uint64_t journal_most = std::uint64_t{64} << 20;  // bytes
constexpr std::uint64_t journal_least = std::uint64_t{1} << 20;
constexpr std::uint64_t spare_slots = 4096;  // what may wait for a flush on a small disk
constexpr std::size_t sealed_bytes = LayerHeader::encoded_size - sizeof(std::uint64_t);

std::uint64_t checksum(std::span<const std::byte> data, std::uint64_t seed) {
  return XXH3_64bits_withSeed(data.data(), data.size(), seed);
}

std::uint64_t slots_for(std::uint64_t blocks) { return blocks + blocks / 2 + spare_slots; }

// The journal of a small disk need not hold more than some rewrites of it.
std::uint64_t journal_for(std::uint64_t blocks) {
  return std::clamp(round_up(blocks * 64, std::uint64_t{4096}), journal_least, journal_most);
}

bool in_range(std::uint64_t begin, std::uint64_t count, std::uint64_t limit) {
  return count > 0 && begin < limit && count <= limit - begin;
}

}  // namespace

std::uint64_t LayerHeader::salt() const {
  std::uint64_t value = 0;
  std::memcpy(&value, uuid.data(), sizeof value);
  return value;
}

Area LayerHeader::journal() const { return {2 * encoded_size, journal_bytes}; }

Area LayerHeader::index(unsigned which) const {
  const std::uint64_t length =
      (blocks() + extents_per_page - 1) / extents_per_page * index_page_bytes;
  return {journal().end() + which * length, length};
}

Area LayerHeader::hashes() const {
  const std::uint64_t sectors = (slots + hashes_per_sector - 1) / hashes_per_sector;
  return {index(1).end(), round_up(sectors * hash_sector_bytes, std::uint64_t{4096})};
}

Area LayerHeader::data() const { return {hashes().end(), slots * block_bytes}; }

Result<LayerHeader> lay_out_layer(std::uint64_t size) {
  if (size == 0 || size % 512 != 0 || size > LayerHeader::size_limit) {
    return fail(ErrorKind::invalid_argument,
                "a disk of {} bytes: its size must be a multiple of 512, more than 0 and at most 4 PiB",
                size);
  }
  LayerHeader header;
  header.uuid = new_uuid();
  header.size = size;
  header.slots = slots_for(header.blocks());
  header.journal_bytes = journal_for(header.blocks());
  return header;
}

std::array<std::byte, LayerHeader::encoded_size> encode(const LayerHeader& h) {
  assert(h.parent.location.size() <= LayerHeader::location_limit);
  assert(h.name.size() <= LayerHeader::name_limit);
  std::vector<std::byte> out;
  out.reserve(LayerHeader::encoded_size);
  Encoder e(out);
  e.bytes(std::as_bytes(std::span(magic)));
  e.u32(LayerHeader::version);
  e.u32(0);
  e.bytes(std::as_bytes(std::span(h.uuid)));
  e.u64(h.generation);
  e.u64(h.content);
  e.u64(h.size);
  e.u64(h.slots);
  e.u64(h.journal_bytes);
  e.u8(static_cast<std::uint8_t>(h.state));
  e.u8(h.active_index);
  e.u8(static_cast<std::uint8_t>(h.parent.kind));
  e.u8(static_cast<std::uint8_t>(h.merge));
  e.u32(0);
  e.u64(h.index_pages);
  e.u64(h.first_batch);
  e.u64(h.closed_batch);
  e.i64(h.created_seconds);
  e.bytes(std::as_bytes(std::span(h.parent.uuid)));
  e.u64(h.parent.content);
  e.u64(h.parent.size);
  e.i64(h.parent.changed_ns);
  e.bytes(std::as_bytes(std::span(h.merge_with)));
  e.text(h.parent.location);
  e.text(h.name);
  std::array<std::byte, LayerHeader::encoded_size> slot{};
  std::copy(out.begin(), out.end(), slot.begin());
  const std::uint64_t sum = checksum(std::span(slot).first(sealed_bytes), 0);
  std::memcpy(slot.data() + sealed_bytes, &sum, sizeof sum);
  return slot;
}

HeaderState decode(std::span<const std::byte> slot, LayerHeader& out) {
  if (slot.size() < LayerHeader::encoded_size) return HeaderState::absent;
  slot = slot.first(LayerHeader::encoded_size);
  Decoder d(slot.first(sealed_bytes));
  const auto found = d.bytes(magic.size());
  const bool ours = std::memcmp(found.data(), magic.data(), magic.size()) == 0;
  std::uint64_t sum = 0;
  std::memcpy(&sum, slot.data() + sealed_bytes, sizeof sum);
  if (sum != checksum(slot.first(sealed_bytes), 0))
    return ours ? HeaderState::corrupt : HeaderState::absent;
  if (!ours) return HeaderState::absent;
  const std::uint32_t version = d.u32();
  if (version > LayerHeader::version) return HeaderState::newer;
  d.u32();
  LayerHeader h;
  const auto take_uuid = [&](Uuid& uuid) {
    const auto bytes = d.bytes(uuid.size());
    if (!bytes.empty()) std::memcpy(uuid.data(), bytes.data(), uuid.size());
  };
  take_uuid(h.uuid);
  h.generation = d.u64();
  h.content = d.u64();
  h.size = d.u64();
  h.slots = d.u64();
  h.journal_bytes = d.u64();
  const std::uint8_t state = d.u8();
  h.active_index = d.u8();
  const std::uint8_t kind = d.u8();
  const std::uint8_t merge = d.u8();
  d.u32();
  h.index_pages = d.u64();
  h.first_batch = d.u64();
  h.closed_batch = d.u64();
  h.created_seconds = d.i64();
  take_uuid(h.parent.uuid);
  h.parent.content = d.u64();
  h.parent.size = d.u64();
  h.parent.changed_ns = d.i64();
  take_uuid(h.merge_with);
  h.parent.location = d.text();
  h.name = d.text();
  const bool sane =
      d.ok() && version == LayerHeader::version && state <= 1 && h.active_index <= 1 && kind <= 4 &&
      merge <= static_cast<std::uint8_t>(MergeState::goes_down) && (merge == 0 || state == 1) &&
      h.size > 0 && h.size % 512 == 0 && h.size <= LayerHeader::size_limit &&
      h.slots == slots_for(h.blocks()) && h.journal_bytes == journal_for(h.blocks()) &&
      h.index_pages * index_page_bytes <= h.index(h.active_index).length && h.first_batch > 0 &&
      h.parent.location.size() <= LayerHeader::location_limit &&
      h.name.size() <= LayerHeader::name_limit && (kind == 0) == h.parent.location.empty();
  if (!sane) return HeaderState::corrupt;
  h.state = static_cast<LayerState>(state);
  h.parent.kind = static_cast<ParentKind>(kind);
  h.merge = static_cast<MergeState>(merge);
  out = std::move(h);
  return HeaderState::valid;
}

// --- journal ---

namespace {
constexpr std::uint64_t count_shift = 40;
constexpr std::uint64_t low_mask = (std::uint64_t{1} << count_shift) - 1;
}  // namespace

void append(std::vector<std::byte>& out, const LayerRecord& record) {
  Encoder e(out);
  e.u8(static_cast<std::uint8_t>(record.kind));
  if (record.kind != LayerRecord::Kind::map) {
    e.u64(record.block);
    e.u64(record.count);
    return;
  }
  assert(record.count == record.hashes.size() && record.count < (1u << 24));
  e.u64(record.block | record.count << count_shift);
  e.u32(static_cast<std::uint32_t>(record.slot));
  e.u8(static_cast<std::uint8_t>(record.slot >> 32));
  e.bytes(std::as_bytes(record.hashes));
}

Result<> decode_records(std::span<const std::byte> batch, const LayerHeader& header,
                        const std::function<void(const LayerRecord&)>& sink) {
  Decoder d(batch);
  std::vector<std::uint64_t> hashes;
  while (!d.at_end()) {
    const std::size_t at = batch.size() - d.remaining();
    LayerRecord record;
    const std::uint8_t kind = d.u8();
    bool sane = kind >= 1 && kind <= 3;
    record.kind = static_cast<LayerRecord::Kind>(kind);
    if (sane && record.kind == LayerRecord::Kind::map) {
      const std::uint64_t place = d.u64();
      record.block = place & low_mask;
      record.count = place >> count_shift;
      record.slot = d.u32();
      record.slot |= std::uint64_t{d.u8()} << 32;
      const auto bytes = d.bytes(record.count * sizeof(std::uint64_t));
      sane = d.ok() && in_range(record.slot, record.count, header.slots);
      if (sane) {
        hashes.resize(record.count);
        std::memcpy(hashes.data(), bytes.data(), bytes.size());
        record.hashes = hashes;
      }
    } else if (sane) {
      record.block = d.u64();
      record.count = d.u64();
    }
    if (!sane || !d.ok() || !in_range(record.block, record.count, header.blocks()))
      return fail(ErrorKind::corrupt, "journal record at byte {} of its batch makes no sense", at);
    sink(record);
  }
  return {};
}

// --- index ---

void encode_index_page(std::span<std::byte> out, std::uint64_t salt, std::uint64_t first_batch,
                       std::uint64_t number, std::span<const PackedExtent> extents) {
  assert(out.size() == index_page_bytes && extents.size() <= extents_per_page);
  std::vector<std::byte> page;
  page.reserve(index_page_bytes);
  Encoder e(page);
  e.u64(0);
  e.u64(number);
  e.u64(first_batch);
  e.u32(static_cast<std::uint32_t>(extents.size()));
  e.u32(0);
  e.bytes(std::as_bytes(extents));
  page.resize(index_page_bytes);
  const std::uint64_t sum = checksum(std::span(page).subspan(sizeof(std::uint64_t)), salt);
  std::memcpy(page.data(), &sum, sizeof sum);
  std::copy(page.begin(), page.end(), out.begin());
}

Result<> decode_index_page(std::span<const std::byte> page, const LayerHeader& header,
                           std::uint64_t number, std::uint64_t& previous_end,
                           std::vector<Extent>& out) {
  Decoder d(page.first(index_page_bytes));
  const std::uint64_t sum = d.u64();
  if (sum != checksum(page.subspan(sizeof sum, index_page_bytes - sizeof sum), header.salt()))
    return fail(ErrorKind::corrupt, "index page {}: wrong checksum", number);
  const std::uint64_t found_number = d.u64();
  const std::uint64_t first_batch = d.u64();
  const std::uint32_t count = d.u32();
  d.u32();
  if (found_number != number || first_batch != header.first_batch || count > extents_per_page) {
    return fail(ErrorKind::corrupt, "index page {}: another page stands in its place", number);
  }
  for (std::uint32_t i = 0; i < count; ++i) {
    PackedExtent packed;
    std::memcpy(&packed, d.bytes(sizeof packed).data(), sizeof packed);
    const Extent extent = packed.unpack();
    if (extent.block < previous_end || !in_range(extent.block, extent.count, header.blocks()) ||
        (!extent.unwritten && !in_range(extent.physical, extent.count, header.slots))) {
      return fail(ErrorKind::corrupt, "index page {}: extent {} makes no sense", number, i);
    }
    previous_end = extent.end();
    out.push_back(extent);
  }
  return {};
}

// --- hashes ---

void encode_hash_sector(std::span<std::byte> out, std::uint64_t salt, std::uint64_t number,
                        const HashSector& hashes) {
  assert(out.size() == hash_sector_bytes);
  std::memcpy(out.data(), hashes.data(), sizeof hashes);
  const std::uint64_t sum = checksum(out.first(sizeof hashes), salt + number);
  std::memcpy(out.data() + sizeof hashes, &sum, sizeof sum);
}

Result<> decode_hash_sector(std::span<const std::byte> sector, std::uint64_t salt,
                            std::uint64_t number, HashSector& out) {
  std::uint64_t sum = 0;
  std::memcpy(&sum, sector.data() + sizeof out, sizeof sum);
  const auto nothing = [](std::byte byte) { return byte == std::byte{0}; };
  if (sum == 0 && std::all_of(sector.begin(), sector.end(), nothing)) {
    out = {};  // never written: none of its slots was in use
    return {};
  }
  if (sum != checksum(sector.first(sizeof out), salt + number))
    return fail(ErrorKind::corrupt, "hash sector {}: wrong checksum", number);
  std::memcpy(out.data(), sector.data(), sizeof out);
  return {};
}

}  // namespace tidepool::blockdev::chain
