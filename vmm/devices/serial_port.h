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

namespace tidepool::vmm {

class SerialPort final : public BusDevice {
 public:
  static constexpr std::uint64_t ports = 8;
  static constexpr std::size_t most_typed = 64 * 1024;

  // `interrupt` raises the port's interrupt once.
  SerialPort(std::function<void(char)> output, std::function<void()> interrupt)
      : output_(std::move(output)), interrupt_(std::move(interrupt)) {}

  void read(std::uint64_t offset, std::span<std::byte> out) override;
  void write(std::uint64_t offset, std::span<const std::byte> in) override;
  void type(std::string_view bytes);  // any thread

 private:
  std::uint8_t read_register(std::uint64_t offset);
  void write_register(std::uint64_t offset, std::uint8_t value);
  std::uint8_t identify() const;
  void update_interrupt(bool news);
  std::uint8_t modem_status() const;

  const std::function<void(char)> output_;
  const std::function<void()> interrupt_;
  std::mutex mutex_;  // guards all below; held while output and interrupt are called
  std::uint8_t interrupt_enable_ = 0, line_control_ = 3, modem_control_ = 8, scratch_ = 0;
  std::uint16_t divisor_ = 12;
  bool fifo_ = false, empty_pending_ = false;
  std::deque<std::uint8_t> received_;
};

}  // namespace tidepool::vmm
