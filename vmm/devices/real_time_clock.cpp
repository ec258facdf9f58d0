#include "vmm/devices/real_time_clock.h"

#include <ctime>

namespace tidepool::vmm {

namespace {

constexpr std::uint8_t seconds = 0, minutes = 2, hours = 4, weekday = 6, day = 7, month = 8,
                       year = 9, status_a = 10, status_b = 11, status_c = 12, status_d = 13,
                       century = 0x32;
constexpr std::uint8_t divider = 0x26, hours_of_24 = 0x02, valid = 0x80;

std::uint8_t decimal(int value) {
  return static_cast<std::uint8_t>((value / 10 % 10) << 4 | value % 10);
}

}  // namespace

std::uint8_t RealTimeClock::read_register(std::uint8_t index) const {
  const std::time_t now = std::time(nullptr);
  std::tm time{};
  ::gmtime_r(&now, &time);
  switch (index) {
    case seconds:
      return decimal(time.tm_sec);
    case minutes:
      return decimal(time.tm_min);
    case hours:
      return decimal(time.tm_hour);
    case weekday:
      return decimal(time.tm_wday + 1);
    case day:
      return decimal(time.tm_mday);
    case month:
      return decimal(time.tm_mon + 1);
    case year:
      return decimal(time.tm_year % 100);
    case century:
      return decimal((time.tm_year + 1900) / 100);
    case status_a:
      return divider;
    case status_b:
      return hours_of_24;
    case status_c:
      return 0;
    case status_d:
      return valid;
    default:
      return state_.memory[index];
  }
}

void RealTimeClock::read(std::uint64_t offset, std::span<std::byte> out) {
  const std::lock_guard lock(mutex_);
  put_value(offset == 0 ? state_.index : read_register(state_.index), out);
}

void RealTimeClock::write(std::uint64_t offset, std::span<const std::byte> in) {
  const std::lock_guard lock(mutex_);
  const auto value = static_cast<std::uint8_t>(in[0]);
  if (offset == 0) {
    state_.index = value & 0x7f;
  } else {
    state_.memory[state_.index] = value;
  }
}

}  // namespace tidepool::vmm
