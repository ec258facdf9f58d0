// The pool's superblock: what it is and where its parts lie (pool_format.md).
//
// 512 bytes, so that a write is never torn, in two slots. Both are written one
// after the other with a barrier between and after, before anything that the older
// one points to is reused: each alone leads to the complete state, and one that
// rots away is made good by the other.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"
#include "base/uuid.h"

namespace tidepool::pool {

// Batch numbers of the journal never repeat in the life of a pool: the generation
// of the superblock they follow, then a count.
constexpr std::uint64_t first_batch(std::uint64_t generation) { return generation << 24; }

struct Area {  // bytes, multiples of 4096
  std::uint64_t offset = 0, length = 0;
};

struct Superblock {
  static constexpr std::size_t encoded_size = 512;    // bytes
  static constexpr std::uint64_t slot_stride = 4096;  // bytes between the slots
  static constexpr std::uint32_t version = 1;

  Uuid uuid{};
  std::uint64_t generation = 0;  // counts the superblock's updates
  std::uint64_t pool_bytes = 0;
  std::uint32_t chunk_bytes = 0;
  std::uint64_t node_limit = 0;
  std::uint64_t next_node = 0;  // ids below were given out
  Area journal;
  std::array<Area, 2> checkpoints;
  std::uint32_t active_checkpoint = 0;  // 0 or 1
  std::uint64_t checkpoint_pages = 0;
  bool clean = false;  // closed with nothing pending: no block free here holds data
};

std::array<std::byte, Superblock::encoded_size> encode(const Superblock& superblock);

enum class SlotState : std::uint8_t { absent, valid, corrupt, newer };
// Checks magic, version, checksum and every bound; fills `out` when valid.
SlotState decode(std::span<const std::byte> slot, Superblock& out);

// Lays out a new pool: areas, limits. `bytes` is rounded down to whole chunks.
Result<Superblock> lay_out(std::uint64_t bytes, std::uint32_t chunk_bytes);
// The bytes a checkpoint of a pool of this size can take at most, in whole pages.
std::uint64_t checkpoint_area_bytes(std::uint64_t pool_bytes, std::uint64_t node_limit);

}  // namespace tidepool::pool
