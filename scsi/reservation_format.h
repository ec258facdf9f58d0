// The stored form of persistent reservations (reservation_format.md): pure codec.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "scsi/persistent_reservations.h"

namespace tidepool::scsi {

inline constexpr std::size_t most_registrants = 4096;
inline constexpr std::size_t largest_reservation_file = std::size_t{4} << 20;  // bytes

std::vector<std::byte> encode_reservations(const ReservationState& state);
// `name`: of the file, for the message.
Result<ReservationState> decode_reservations(std::span<const std::byte> stored,
                                             std::string_view name);

}  // namespace tidepool::scsi
