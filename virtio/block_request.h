// What a driver asks of a block device, taken out of one chain (Virtual I/O Device
// 1.2, section 5.2.6). Pure: no I/O, no state.
//
// The header, and the ranges of a discard, are copied out of guest memory before they
// are looked at. The pieces of data stay where they are.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "virtio/split_queue.h"

namespace tidepool::virtio {

inline constexpr std::uint64_t sector_bytes = 512;
inline constexpr std::size_t block_id_bytes = 20;
inline constexpr std::uint32_t most_ranges = 16;               // of a discard or write-zeroes
inline constexpr std::uint32_t most_range_sectors = 1U << 22;  // 2 GiB each

enum class BlockCommand { read, write, flush, get_id, discard, write_zeroes, unknown };

struct BlockRange {
  std::uint64_t offset = 0;  // bytes
  std::uint64_t length = 0;
  bool unmap = false;  // write-zeroes may give the space back
};

struct BlockRequest {
  BlockCommand command = BlockCommand::unknown;
  std::uint64_t offset = 0;        // bytes; read and write
  std::span<iovec> data;           // in the chain's segments
  std::uint64_t data_length = 0;   // bytes
  std::uint8_t* status = nullptr;  // where the answer goes
  std::uint8_t refusal = 0;        // VIRTIO_BLK_S_*, what to answer at once; 0: none
  std::array<BlockRange, most_ranges> ranges;
  std::uint32_t range_count = 0;
};

// Changes the chain's segments: what is not data is cut off. nullopt: there is not even
// room for an answer.
std::optional<BlockRequest> parse_block_request(Chain& chain);

}  // namespace tidepool::virtio
