// A serial port: the 16550A, as much of it as drivers use.
//
// What is written goes to `output` at once, on the vCPU's thread: it waits where the
// output does. What is typed waits in a queue until it is read.
//
// Limits: speed and parity are remembered and mean nothing; at most most_typed bytes
// wait, more are dropped.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string_view>

#include "vmm/devices/bus.h"
#include "vmm/state/board_state.h"

namespace tidepool::vmm {

class SerialPort final : public BusDevice {
 public:
  static constexpr std::uint64_t ports = 8;
  static constexpr std::size_t most_typed = 64 * 1024;

  // `interrupt` raises the port's interrupt once.
  SerialPort(std::function<void(char)> output, std::function<void()> interrupt,
             const SerialState& state = {});

  void read(std::uint64_t offset, std::span<std::byte> out) override;
  void write(std::uint64_t offset, std::span<const std::byte> in) override;
  void type(std::string_view bytes);  // any thread
  SerialState save() const;
  // An interrupt that was on its way when the state was saved comes again.
  void raise_pending();

 private:
  std::uint8_t read_register(std::uint64_t offset);
  void write_register(std::uint64_t offset, std::uint8_t value);
  std::uint8_t identify() const;
  void update_interrupt(bool news);
  std::uint8_t modem_status() const;

  const std::function<void(char)> output_;
  const std::function<void()> interrupt_;
  mutable std::mutex mutex_;  // guards all below; held while output and interrupt are called
  std::uint8_t interrupt_enable_, line_control_, modem_control_, scratch_;
  std::uint16_t divisor_;
  bool fifo_, empty_pending_;
  std::deque<std::uint8_t> received_;
};

}  // namespace tidepool::vmm
