// Checkpoint pages: the whole state of a pool as records (pool_format.md).
//
// A page is complete in itself: no record crosses it. A damaged page therefore
// costs its own records and no others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"

namespace tidepool::pool {

inline constexpr std::size_t page_bytes = 64 * 1024;
inline constexpr std::size_t page_header_bytes = 32;
inline constexpr std::size_t page_payload_bytes = page_bytes - page_header_bytes;

// Fills `page` (page_bytes) from records of at most page_payload_bytes.
void encode_page(std::span<std::byte> page, std::uint64_t generation, std::uint64_t index,
                 std::span<const std::byte> records);
// The records in the page, or corrupt when it is not page `index` of `generation`.
Result<std::span<const std::byte>> decode_page(std::span<const std::byte> page,
                                               std::uint64_t generation, std::uint64_t index);

}  // namespace tidepool::pool
