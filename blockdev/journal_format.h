// Journal batches: the records of one commit, in self-checking sectors
// (pool_format.md, layer_format.md).
//
// Each 512-byte sector carries its own checksum and says to which batch it
// belongs, because that tells a torn write from damage: after a power loss a
// sector is either of the batch or what was there before (valid and older, or
// zeros); a sector that is neither has been damaged, and that is an error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"

namespace tidepool::blockdev {

inline constexpr std::size_t journal_sector_bytes = 512;
inline constexpr std::size_t journal_header_bytes = 32;
inline constexpr std::size_t journal_payload_bytes = journal_sector_bytes - journal_header_bytes;
inline constexpr std::size_t journal_unit_bytes = 4096;  // a batch begins and ends on one

// The bytes that a batch of `record_bytes` takes in the journal.
constexpr std::uint64_t batch_bytes(std::uint64_t record_bytes) {
  std::uint64_t sectors = (record_bytes + journal_payload_bytes - 1) / journal_payload_bytes;
  std::uint64_t bytes = sectors * journal_sector_bytes;
  return (bytes + journal_unit_bytes - 1) / journal_unit_bytes * journal_unit_bytes;
}

// `out` has batch_bytes(records.size()) bytes. `salt`: of the pool, so that
// another pool's old sectors are not taken for its own.
void encode_batch(std::span<std::byte> out, std::uint64_t salt, std::uint64_t batch,
                  std::span<const std::byte> records);

// Reads the batch that begins at `journal` (the journal's bytes from there on).
// Its records into `records` and its size as the result; 0 when the journal ends
// here (nothing, older, or torn); corrupt when a sector is damaged.
Result<std::uint64_t> decode_batch(std::span<const std::byte> journal, std::uint64_t salt,
                                   std::uint64_t batch, std::vector<std::byte>& records);

// Whether `journal` holds a batch later than `batch`. Batches become stable one after
// the other: where a later one is, the journal does not end at `batch`.
bool holds_later_batch(std::span<const std::byte> journal, std::uint64_t salt, std::uint64_t batch);

}  // namespace tidepool::blockdev
