// What is once in a machine, beside its vCPUs and its devices: time, the kernel's
// interrupt controllers and timer, and the board's own small devices.
#pragma once

#include <linux/kvm.h>

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace tidepool::vmm {

struct SerialState {
  std::uint8_t interrupt_enable = 0, line_control = 3, modem_control = 8, scratch = 0;
  std::uint16_t divisor = 12;
  bool fifo = false, empty_pending = false;
  std::vector<std::uint8_t> received;
};

struct RealTimeClockState {
  std::uint8_t index = 0;
  std::array<std::uint8_t, 128> memory{};
};

struct PowerState {
  std::uint16_t status = 0, enabled = 0;
  std::uint64_t passed = 0;  // nanoseconds, of ACPI's timer
};

struct PciBusState {
  std::uint32_t address = 0;               // what the data port means
  std::array<std::uint8_t, 256> bridge{};  // the host bridge's registers
};

struct BoardState {
  static constexpr unsigned chip_count = 3;  // two PICs and the I/O APIC
  std::uint64_t saved_at = 0;                // nanoseconds since 1970
  std::uint64_t clock = 0;                   // nanoseconds, of KVM's clock
  std::array<kvm_irqchip, chip_count> chips{};
  kvm_pit_state2 timer{};
  SerialState serial;
  RealTimeClockState real_time_clock;
  PowerState power;
  PciBusState pci;
};

std::vector<std::byte> encode(const BoardState& state);
// nullopt: makes no sense.
std::optional<BoardState> decode_board(std::span<const std::byte> bytes);

}  // namespace tidepool::vmm
