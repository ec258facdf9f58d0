// A network card's address: six bytes, as text "52:54:00:12:34:56".
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

#include "base/result.h"

namespace tidepool::virtio {

using MacAddress = std::array<std::byte, 6>;

// Refuses what is not six pairs of hexadecimal digits, a group address and 0.
Result<MacAddress> parse_mac(std::string_view text);
std::string to_string(const MacAddress& address);
// By chance, marked as locally administered.
MacAddress random_mac();

}  // namespace tidepool::virtio
