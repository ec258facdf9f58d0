#include "scsi/cdb.h"

#include "base/checked.h"
#include "scsi/big_endian.h"

namespace tidepool::scsi {

unsigned cdb_length(std::uint8_t opcode) {
  switch (opcode >> 5) {
    case 0:
      return 6;
    case 1:
    case 2:
      return 10;
    case 4:
      return 16;
    case 5:
      return 12;
    default:
      return 0;
  }
}

BlockRange block_range(const Cdb& cdb) {
  switch (cdb_length(load_be8(&cdb[0]))) {
    case 6: {
      const std::uint8_t count = load_be8(&cdb[4]);
      return {load_be24(&cdb[1]) & 0x1fffff, count == 0 ? 256u : count};
    }
    case 10:
      return {load_be32(&cdb[2]), load_be16(&cdb[7])};
    case 12:
      return {load_be32(&cdb[2]), load_be32(&cdb[6])};
    default:
      return {load_be64(&cdb[2]), load_be32(&cdb[10])};
  }
}

std::optional<Sense> check_range(const BlockRange& range, std::uint64_t blocks) {
  // A range of no blocks may begin at the end, not behind it.
  if (range_fits(range.first, range.count, blocks)) return std::nullopt;
  return illegal_request(asc::lba_out_of_range);
}

std::optional<std::uint16_t> unknown_bits(const Cdb& cdb, std::span<const std::uint8_t> usage) {
  for (std::size_t i = 1; i < usage.size(); ++i)
    if ((load_be8(&cdb[i]) & ~usage[i]) != 0) return static_cast<std::uint16_t>(i);
  return std::nullopt;
}

}  // namespace tidepool::scsi
