// Numbers of virtio's network device (Virtual I/O Device 1.2, section 5.1). Linux's header
// of them is not one for C++.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/byte_order.h"
#include "virtio/mac_address.h"

namespace tidepool::virtio::net {

inline constexpr unsigned checksum = 0, guest_checksum = 1, mac = 5, guest_tso4 = 7, guest_tso6 = 8,
                          guest_ecn = 9, host_tso4 = 11, host_tso6 = 12, host_ecn = 13,
                          mergeable_buffers = 15, status = 16;  // bits of the features

inline constexpr std::size_t config_bytes = 8;  // address, status
inline constexpr std::size_t status_offset = 6;
inline constexpr std::uint16_t link_up = 1;

constexpr std::uint64_t bit(unsigned number) { return std::uint64_t{1} << number; }
// How packets are passed, which both ends must know; and what the card tells of itself.
inline constexpr std::uint64_t packet_features =
    bit(checksum) | bit(guest_checksum) | bit(guest_tso4) | bit(guest_tso6) | bit(guest_ecn) |
    bit(host_tso4) | bit(host_tso6) | bit(host_ecn) | bit(mergeable_buffers);
inline constexpr std::uint64_t card_features = bit(mac) | bit(status);

// The configuration of a card that has this address, and a link.
inline std::array<std::byte, config_bytes> config_of(const MacAddress& address) {
  std::array<std::byte, config_bytes> config{};
  std::memcpy(config.data(), address.data(), address.size());
  store_le16(&config[status_offset], link_up);
  return config;
}

}  // namespace tidepool::virtio::net
