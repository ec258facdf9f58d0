#include "vmm/devices/power.h"

#include <algorithm>

#include "vmm/memory/memory_layout.h"

namespace tidepool::vmm {

namespace {

constexpr std::uint16_t button_bit = 1U << 8;  // of event status and enable
constexpr std::uint16_t acpi_mode = 1;         // of the control register
constexpr std::uint16_t sleep_now = 1U << 13;  // with the type in bits 10 to 12
constexpr std::uint64_t timer_hertz = 3'579'545;

}  // namespace

PowerRegisters::PowerRegisters(std::function<void()> power_off,
                               std::function<void(bool high)> interrupt, const PowerState& state)
    : power_off_(std::move(power_off)),
      interrupt_(std::move(interrupt)),
      begin_(std::chrono::steady_clock::now() - std::chrono::nanoseconds(state.passed)),
      status_(state.status),
      enabled_(state.enabled) {}

PowerState PowerRegisters::save() const {
  const std::lock_guard lock(mutex_);
  return {.status = status_,
          .enabled = enabled_,
          .passed = static_cast<std::uint64_t>(passed().count())};
}

void PowerRegisters::read(std::uint64_t offset, std::span<std::byte> out) {
  const std::lock_guard lock(mutex_);
  std::uint64_t value = 0;
  if (offset >= timer_offset) {
    constexpr std::uint64_t second = 1'000'000'000;
    const auto count = static_cast<std::uint64_t>(passed().count());
    const std::uint64_t ticks =
        count / second * timer_hertz + count % second * timer_hertz / second;
    value = static_cast<std::uint32_t>(ticks) >> (8 * (offset - timer_offset));
  } else if (offset >= control_offset) {
    value = acpi_mode >> (8 * (offset - control_offset));
  } else {
    value = (std::uint32_t{enabled_} << 16 | status_) >> (8 * offset);
  }
  put_value(value, out);
}

void PowerRegisters::write(std::uint64_t offset, std::span<const std::byte> in) {
  const auto value = static_cast<std::uint32_t>(value_of(in));
  if (offset == control_offset) {
    if ((value & sleep_now) != 0 && (value >> 10 & 7) == off_type) power_off_();
    return;
  }
  if (offset >= control_offset) return;
  const std::lock_guard lock(mutex_);
  const std::uint32_t both = value << (8 * offset);
  const std::uint32_t mask = (in.size() >= 4 ? ~0U : (1U << (8 * in.size())) - 1) << (8 * offset);
  status_ = static_cast<std::uint16_t>(status_ & ~both);  // written ones clear
  if ((mask & 0xffff0000U) != 0) enabled_ = static_cast<std::uint16_t>(both >> 16);
  update_interrupt();
}

void PowerRegisters::press_button() {
  const std::lock_guard lock(mutex_);
  status_ |= button_bit;
  update_interrupt();
}

void PowerRegisters::raise_pending() {
  const std::lock_guard lock(mutex_);
  update_interrupt();
}

void PowerRegisters::update_interrupt() { interrupt_((status_ & enabled_ & button_bit) != 0); }

void ResetPort::read(std::uint64_t, std::span<std::byte> out) {
  std::ranges::fill(out, std::byte{0xff});  // no keyboard controller here
}

void ResetPort::write(std::uint64_t, std::span<const std::byte> in) {
  if (in[0] == std::byte{reset_value}) reset_();
}

}  // namespace tidepool::vmm
