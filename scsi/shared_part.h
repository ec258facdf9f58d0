// What the hosts that serve one unit keep in their shared state: its reservations, and what a
// change of them does to tasks and nexuses at each host. Pure codec (reservation_format.md).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/uuid.h"
#include "scsi/persistent_reservations.h"

namespace tidepool::scsi {

// Once at each host that follows the change.
struct SharedEffect {
  enum class Kind : std::uint8_t {
    attention,  // a unit attention for the port
    abort,      // the port's tasks, but the one that asked for it
    reset,      // of the unit, at the other hosts
    clear,      // of the task set, at the other hosts
  };
  Kind kind = Kind::attention;
  std::uint64_t number = 0;  // of the change
  Uuid by{};                 // the host that made it
  std::uint64_t task = 0;    // there
  std::uint16_t code = 0;    // of an attention or a reset
  PortId port;
  bool operator==(const SharedEffect&) const = default;
};

struct SharedPart {
  ReservationState reservations;
  std::vector<SharedEffect> effects;  // oldest first; those that all have followed go
  bool operator==(const SharedPart&) const = default;
};

inline constexpr std::size_t most_shared_effects = 8192;

std::vector<std::byte> encode_shared_part(const SharedPart& part);
// Nothing at all is the part of a new unit.
Result<SharedPart> decode_shared_part(std::span<const std::byte> stored);

}  // namespace tidepool::scsi
