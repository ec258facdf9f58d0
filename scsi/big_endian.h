// Big-endian integers in byte buffers, as SCSI and iSCSI have them on the wire.
// Any alignment; the caller has checked the bounds.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tidepool::scsi {

template <unsigned width>
constexpr std::uint64_t load_be(const std::byte* from) {
  std::uint64_t value = 0;
  for (unsigned i = 0; i < width; ++i) value = value << 8 | std::to_integer<std::uint64_t>(from[i]);
  return value;
}
template <unsigned width>
constexpr void store_be(std::byte* to, std::uint64_t value) {
  for (unsigned i = 0; i < width; ++i)
    to[i] = static_cast<std::byte>(value >> (8 * (width - 1 - i)) & 0xff);
}

constexpr std::uint8_t load_be8(const std::byte* from) {
  return std::to_integer<std::uint8_t>(*from);
}
constexpr std::uint16_t load_be16(const std::byte* from) {
  return static_cast<std::uint16_t>(load_be<2>(from));
}
constexpr std::uint32_t load_be24(const std::byte* from) {
  return static_cast<std::uint32_t>(load_be<3>(from));
}
constexpr std::uint32_t load_be32(const std::byte* from) {
  return static_cast<std::uint32_t>(load_be<4>(from));
}
constexpr std::uint64_t load_be64(const std::byte* from) { return load_be<8>(from); }

constexpr void store_be16(std::byte* to, std::uint64_t value) { store_be<2>(to, value); }
constexpr void store_be24(std::byte* to, std::uint64_t value) { store_be<3>(to, value); }
constexpr void store_be32(std::byte* to, std::uint64_t value) { store_be<4>(to, value); }
constexpr void store_be64(std::byte* to, std::uint64_t value) { store_be<8>(to, value); }

}  // namespace tidepool::scsi
