// Universally unique identifiers (RFC 4122) of what is stored.
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace tidepool {

using Uuid = std::array<std::uint8_t, 16>;
Uuid new_uuid();  // random, version 4
std::string to_text(const Uuid& uuid);

}  // namespace tidepool
