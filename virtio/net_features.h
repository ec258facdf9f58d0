// Numbers of virtio's network device (Virtual I/O Device 1.2, section 5.1). Linux's header
// of them is not one for C++.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tidepool::virtio::net {

inline constexpr unsigned checksum = 0, guest_checksum = 1, mac = 5, guest_tso4 = 7, guest_tso6 = 8,
                          guest_ecn = 9, host_tso4 = 11, host_tso6 = 12, host_ecn = 13,
                          mergeable_buffers = 15, status = 16;  // bits of the features

inline constexpr std::size_t config_bytes = 8;  // address, status
inline constexpr std::size_t status_offset = 6;
inline constexpr std::uint16_t link_up = 1;

constexpr std::uint64_t bit(unsigned number) { return std::uint64_t{1} << number; }

}  // namespace tidepool::virtio::net
