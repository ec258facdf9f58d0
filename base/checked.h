// Arithmetic on sizes and offsets that says so instead of wrapping around, and
// the rounding that goes with it. For values that come from outside: stored
// bytes, command lines, guests.
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>

namespace tidepool {

template <std::unsigned_integral T>
constexpr std::optional<T> checked_add(T a, T b) {
  T sum;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

template <std::unsigned_integral T>
constexpr std::optional<T> checked_multiply(T a, T b) {
  T product;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

template <std::unsigned_integral T>
constexpr bool is_power_of_two(T value) {
  return value != 0 && (value & (value - 1)) == 0;
}

// unit > 0, of any value.
template <std::unsigned_integral T>
constexpr T round_down(T value, T unit) {
  return value - value % unit;
}

// unit > 0; wraps around when the result does not fit: bound the value first,
// or use checked_round_up.
template <std::unsigned_integral T>
constexpr T round_up(T value, T unit) {
  const T rest = value % unit;
  return rest == 0 ? value : value + (unit - rest);
}

template <std::unsigned_integral T>
constexpr std::optional<T> checked_round_up(T value, T unit) {
  const T rest = value % unit;
  if (rest == 0) return value;
  return checked_add(value, static_cast<T>(unit - rest));
}

// Whether [offset, offset + length) lies in [0, size).
constexpr bool range_fits(std::uint64_t offset, std::uint64_t length, std::uint64_t size) {
  return length <= size && offset <= size - length;
}

}  // namespace tidepool
