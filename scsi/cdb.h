// The fields of command descriptor blocks: pure parsing, no state.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "scsi/sense.h"

namespace tidepool::scsi {

using Cdb = std::array<std::byte, 16>;

// Bytes of a CDB by its operation code's group; 0 where the group has no fixed length.
unsigned cdb_length(std::uint8_t opcode);

struct BlockRange {
  std::uint64_t first = 0;  // logical block
  std::uint64_t count = 0;  // logical blocks

  bool operator==(const BlockRange&) const = default;
};

// Of READ, WRITE, VERIFY, WRITE SAME and their kin of 6, 10, 12 and 16 bytes.
// In 6 bytes a count of 0 means 256.
BlockRange block_range(const Cdb& cdb);

// Whether the range lies in a unit of `blocks`; lba_out_of_range else.
std::optional<Sense> check_range(const BlockRange& range, std::uint64_t blocks);

// The first byte of the CDB with a bit that `usage` does not have; none: all are known.
std::optional<std::uint16_t> unknown_bits(const Cdb& cdb, std::span<const std::uint8_t> usage);

}  // namespace tidepool::scsi
