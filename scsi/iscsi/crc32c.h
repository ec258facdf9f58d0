// CRC32C (Castagnoli), the digest of iSCSI: with the processor's instruction where it has
// one, by table elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tidepool::scsi::iscsi {

// `crc`: of what came before; begin with 0.
std::uint32_t crc32c(std::uint32_t crc, std::span<const std::byte> data);
std::uint32_t crc32c_by_table(std::uint32_t crc, std::span<const std::byte> data);

}  // namespace tidepool::scsi::iscsi
