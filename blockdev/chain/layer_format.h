// A COW layer's file: header, journal records, index pages, hash sectors
// (layer_format.md). Pure codec: no I/O.
//
// Everything decoded here may come from a damaged or hostile file: each decoder
// checks the checksum first and then every bound, and says what is wrong.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/uuid.h"
#include "blockdev/extent_map.h"

namespace tidepool::blockdev::chain {

inline constexpr std::uint64_t block_bytes = 4096;

struct Area {  // bytes, multiples of 4096
  std::uint64_t offset = 0, length = 0;
  std::uint64_t end() const { return offset + length; }
};

enum class LayerState : std::uint8_t { active, sealed };
enum class ParentKind : std::uint8_t { none, layer, file, nbd, nfs };

// A sealed layer's part in a merge with the layer above or below it, `merge_with`.
// While it takes blocks its journal lives, as an active layer's does.
enum class MergeState : std::uint8_t {
  none,
  takes_parent,  // what shows through from the parent; its own content stays the same
  takes_child,   // the child's content; whole only together with the child until then
  took_child,    // done: content is one more than the child knows
  goes_down,     // is meant to be taken by its parent
};

// The parent by place and by identity: one that was swapped or changed is refused.
struct ParentReference {
  ParentKind kind = ParentKind::none;
  std::string location;         // path (relative to the layer's directory) or URI
  Uuid uuid{};                  // of a layer
  std::uint64_t content = 0;    // of a layer: LayerHeader::content
  std::uint64_t size = 0;       // bytes
  std::int64_t changed_ns = 0;  // of a file, also on NFS: its last change, since 1970; 0: not known
  bool operator==(const ParentReference&) const = default;
};

struct LayerHeader {
  static constexpr std::size_t encoded_size = 4096;  // bytes; also between the two slots
  static constexpr std::uint32_t version = 1;
  static constexpr std::uint64_t size_limit = std::uint64_t{1} << 52;  // bytes
  static constexpr std::size_t location_limit = 2048, name_limit = 255;

  Uuid uuid{};
  std::uint64_t generation = 0;  // counts the header's updates
  std::uint64_t content = 0;     // counts changes of a sealed layer's content
  std::uint64_t size = 0;        // of the disk: bytes, a multiple of 512
  std::uint64_t slots = 0;
  std::uint64_t journal_bytes = 0;
  LayerState state = LayerState::active;
  MergeState merge = MergeState::none;
  Uuid merge_with{};
  std::uint8_t active_index = 0;    // 0 or 1
  std::uint64_t index_pages = 0;    // of the active index
  std::uint64_t first_batch = 1;     // of the journal that follows it
  std::uint64_t closed_batch = 0;   // what would come next, when it was closed; 0: in use
  std::int64_t created_seconds = 0;  // since 1970
  ParentReference parent;
  std::string name;

  // Whether batches of the journal count.
  bool journal_lives() const {
    return state == LayerState::active || merge == MergeState::takes_parent ||
           merge == MergeState::takes_child;
  }
  std::uint64_t blocks() const { return (size + block_bytes - 1) / block_bytes; }
  std::uint64_t salt() const;  // of the journal and every checksum below
  Area journal() const;
  Area index(unsigned which) const;
  Area hashes() const;
  Area data() const;
  std::uint64_t file_bytes() const { return data().end(); }
  bool operator==(const LayerHeader&) const = default;
};

// The sizes of a new layer for a disk of `size` bytes; a fresh UUID.
Result<LayerHeader> lay_out_layer(std::uint64_t size);

std::array<std::byte, LayerHeader::encoded_size> encode(const LayerHeader& header);

// Absent: not a layer at all. Newer: of a later version.
enum class HeaderState : std::uint8_t { absent, valid, corrupt, newer };
HeaderState decode(std::span<const std::byte> slot, LayerHeader& out);

// --- journal ---

struct LayerRecord {
  enum class Kind : std::uint8_t { map = 1, zero = 2, forget = 3 };
  Kind kind = Kind::map;
  std::uint64_t block = 0, count = 0;
  std::uint64_t slot = 0;                 // map only
  std::span<const std::uint64_t> hashes;  // map only: count of them
};

void append(std::vector<std::byte>& out, const LayerRecord& record);
// Calls sink for each record of a batch; `header` gives the bounds. The hashes
// are valid during the call.
Result<> decode_records(std::span<const std::byte> batch, const LayerHeader& header,
                        const std::function<void(const LayerRecord&)>& sink);

// --- index ---

inline constexpr std::size_t index_page_bytes = 4096;
inline constexpr std::size_t index_page_header = 32;
inline constexpr std::size_t extents_per_page =
    (index_page_bytes - index_page_header) / sizeof(PackedExtent);

// `out` is index_page_bytes long; at most extents_per_page extents.
void encode_index_page(std::span<std::byte> out, std::uint64_t salt, std::uint64_t first_batch,
                       std::uint64_t number, std::span<const PackedExtent> extents);
// Appends the page's extents; `previous_end` is where the last extent before it
// ends (block), and is moved on.
Result<> decode_index_page(std::span<const std::byte> page, const LayerHeader& header,
                           std::uint64_t number, std::uint64_t& previous_end,
                           std::vector<Extent>& out);

// --- hashes ---

inline constexpr std::size_t hash_sector_bytes = 512;
inline constexpr std::size_t hashes_per_sector = 63;

using HashSector = std::array<std::uint64_t, hashes_per_sector>;

void encode_hash_sector(std::span<std::byte> out, std::uint64_t salt, std::uint64_t number,
                        const HashSector& hashes);
Result<> decode_hash_sector(std::span<const std::byte> sector, std::uint64_t salt,
                            std::uint64_t number, HashSector& out);

// Of the 4096 bytes of `block`.
std::uint64_t hash_block(std::uint64_t block, const std::byte* data);

}  // namespace tidepool::blockdev::chain
