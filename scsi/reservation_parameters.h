// The parameter lists of PERSISTENT RESERVE OUT and the data of PERSISTENT RESERVE IN:
// pure decoding and encoding.
#pragma once

#include <cstddef>
#include <expected>
#include <span>
#include <vector>

#include "scsi/persistent_reservations.h"

namespace tidepool::scsi {

std::expected<ReservationRequest, Sense> parse_reservation_request(const Cdb& cdb,
                                                                   std::span<const std::byte> list);

std::vector<std::byte> encode_keys(const ReservationState& state);
std::vector<std::byte> encode_reservation(const ReservationState& state);
std::vector<std::byte> encode_capabilities(const ReservationState& state, bool can_persist);
std::vector<std::byte> encode_full_status(const PersistentReservations& reservations,
                                          std::uint16_t relative_port);

}  // namespace tidepool::scsi
