// The PC's real-time clock (MC146818): the host's time, in UTC.
//
// Limits: no alarm, no periodic interrupt; what the guest sets is remembered only in
// the bytes that are not the time's.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>

#include "vmm/devices/bus.h"

namespace tidepool::vmm {

class RealTimeClock final : public BusDevice {
 public:
  static constexpr std::uint64_t ports = 2;  // index, data
  void read(std::uint64_t offset, std::span<std::byte> out) override;
  void write(std::uint64_t offset, std::span<const std::byte> in) override;

 private:
  std::uint8_t read_register(std::uint8_t index) const;

  std::mutex mutex_;  // guards all below
  std::uint8_t index_ = 0;
  std::array<std::uint8_t, 128> memory_{};
};

}  // namespace tidepool::vmm
