// Little-endian integers in byte buffers: the only way stored formats are
// encoded and decoded. Any alignment; the caller has checked the bounds.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tidepool {

namespace byte_order_detail {

template <class Integer, class Byte>
constexpr Integer load(const Byte* from) {
  Integer value = 0;
  for (std::size_t i = 0; i < sizeof(Integer); ++i) {
    value = static_cast<Integer>(
        value |
        static_cast<Integer>(static_cast<Integer>(static_cast<std::uint8_t>(from[i])) << (8 * i)));
  }
  return value;
}

template <class Integer, class Byte>
constexpr void store(Byte* to, Integer value) {
  for (std::size_t i = 0; i < sizeof(Integer); ++i) {
    to[i] = static_cast<Byte>(static_cast<std::uint8_t>(value >> (8 * i)));
  }
}

}  // namespace byte_order_detail

// Byte: std::byte, unsigned char or char.
template <class Byte>
constexpr std::uint16_t load_le16(const Byte* from) {
  return byte_order_detail::load<std::uint16_t>(from);
}
template <class Byte>
constexpr std::uint32_t load_le32(const Byte* from) {
  return byte_order_detail::load<std::uint32_t>(from);
}
template <class Byte>
constexpr std::uint64_t load_le64(const Byte* from) {
  return byte_order_detail::load<std::uint64_t>(from);
}

template <class Byte>
constexpr void store_le16(Byte* to, std::uint16_t value) {
  byte_order_detail::store(to, value);
}
template <class Byte>
constexpr void store_le32(Byte* to, std::uint32_t value) {
  byte_order_detail::store(to, value);
}
template <class Byte>
constexpr void store_le64(Byte* to, std::uint64_t value) {
  byte_order_detail::store(to, value);
}

}  // namespace tidepool
