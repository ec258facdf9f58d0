// The data of REPORT LUNS.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace tidepool::scsi {

// luns: each as its 8 bytes on the wire.
std::vector<std::byte> encode_lun_list(std::span<const std::uint64_t> luns);

}  // namespace tidepool::scsi
