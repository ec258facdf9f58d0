// Power: ACPI's fixed registers (power button, sleep, timer), and the reset port.
//
// Sleep is power-off: the tables offer nothing else.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>

#include "vmm/devices/bus.h"
#include "vmm/state/board_state.h"

namespace tidepool::vmm {

class PowerRegisters final : public BusDevice {
 public:
  static constexpr std::uint64_t ports = 12;
  static constexpr std::uint64_t event_offset = 0, control_offset = 4, timer_offset = 8;
  static constexpr std::uint8_t off_type = 5;  // what the tables call S5

  // power_off: on a vCPU's thread. interrupt: sets the level of the power interrupt.
  PowerRegisters(std::function<void()> power_off, std::function<void(bool high)> interrupt,
                 const PowerState& state = {});

  void read(std::uint64_t offset, std::span<std::byte> out) override;
  void write(std::uint64_t offset, std::span<const std::byte> in) override;
  void press_button();  // any thread
  PowerState save() const;
  void raise_pending();  // the interrupt has the level that belongs to the state

 private:
  void update_interrupt();
  std::chrono::nanoseconds passed() const { return std::chrono::steady_clock::now() - begin_; }

  const std::function<void()> power_off_;
  const std::function<void(bool)> interrupt_;
  const std::chrono::steady_clock::time_point begin_;
  mutable std::mutex mutex_;  // guards all below; held while the interrupt is set
  std::uint16_t status_, enabled_;
};

class ResetPort final : public BusDevice {
 public:
  explicit ResetPort(std::function<void()> reset) : reset_(std::move(reset)) {}
  void read(std::uint64_t offset, std::span<std::byte> out) override;
  void write(std::uint64_t offset, std::span<const std::byte> in) override;

 private:
  const std::function<void()> reset_;
};

}  // namespace tidepool::vmm
