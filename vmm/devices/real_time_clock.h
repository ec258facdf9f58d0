// The PC's real-time clock (MC146818): the host's time, in UTC.
//
// Limits: no alarm, no periodic interrupt; what the guest sets is remembered only in
// the bytes that are not the time's.
#pragma once

#include <cstdint>
#include <mutex>

#include "vmm/devices/bus.h"
#include "vmm/state/board_state.h"

namespace tidepool::vmm {

class RealTimeClock final : public BusDevice {
 public:
  static constexpr std::uint64_t ports = 2;  // index, data

  explicit RealTimeClock(const RealTimeClockState& state = {}) : state_(state) {}
  void read(std::uint64_t offset, std::span<std::byte> out) override;
  void write(std::uint64_t offset, std::span<const std::byte> in) override;
  RealTimeClockState save() const {
    const std::lock_guard lock(mutex_);
    return state_;
  }

 private:
  std::uint8_t read_register(std::uint8_t index) const;

  mutable std::mutex mutex_;  // guards state_
  RealTimeClockState state_;
};

}  // namespace tidepool::vmm
