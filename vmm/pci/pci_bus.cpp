#include "vmm/pci/pci_bus.h"

#include <algorithm>

namespace tidepool::vmm {

namespace {

constexpr unsigned device_shift = 15, function_shift = 12;
constexpr std::uint64_t register_mask = (1U << function_shift) - 1;
constexpr std::uint64_t function_mask = 7U << function_shift;
constexpr std::uint64_t bus_bytes = std::uint64_t{1} << 20;

}  // namespace

// What a host bridge is to a driver: something that has none.
class HostBridge final : public PciFunction {
 public:
  void read_config(std::uint64_t offset, std::span<std::byte> out) override {
    const std::lock_guard lock(mutex_);
    config_.read(offset, out);
  }
  void write_config(std::uint64_t offset, std::span<const std::byte> in) override {
    const std::lock_guard lock(mutex_);
    config_.write(offset, in);
  }
  std::array<std::uint8_t, ConfigSpace::bytes> values() {
    const std::lock_guard lock(mutex_);
    return config_.values();
  }
  bool restore(const std::array<std::uint8_t, ConfigSpace::bytes>& values) {
    const std::lock_guard lock(mutex_);
    return config_.restore(values);
  }

 private:
  // Intel's number of a bridge of QEMU's: drivers know to leave it alone.
  std::mutex mutex_;  // guards config_
  ConfigSpace config_{PciIdentity{.vendor = 0x8086, .device = 0x0d57, .class_code = 0x060000}};
};

PciBus::PciBus() : bridge_(std::make_unique<HostBridge>()), functions_{bridge_.get()} {}

PciBus::~PciBus() = default;

PciBusState PciBus::save() {
  const std::lock_guard lock(ports_.mutex);
  return {ports_.address, bridge_->values()};
}

Result<> PciBus::restore(const PciBusState& state) {
  if (!bridge_->restore(state.bridge))
    return fail(ErrorKind::corrupt, "the saved PCI bridge is of another machine");
  const std::lock_guard lock(ports_.mutex);
  ports_.address = state.address;
  return {};
}

Result<> PciBus::add(PciFunction& function) {
  if (functions_.size() == most_functions) {
    return fail(ErrorKind::no_space, "no room on the PCI bus for more than {} devices",
                most_functions - 1);
  }
  functions_.push_back(&function);
  return {};
}

PciFunction* PciBus::find(std::uint64_t place, std::size_t length) const {
  const std::uint64_t device = place >> device_shift;
  const bool aligned = (length == 1 || length == 2 || length == 4) && place % length == 0;
  if (!aligned || place >= bus_bytes || (place & function_mask) != 0) return nullptr;
  return device < functions_.size() ? functions_[device] : nullptr;
}

void PciBus::read(std::uint64_t place, std::span<std::byte> out) {
  if (PciFunction* const function = find(place, out.size())) {
    return function->read_config(place & register_mask, out);
  }
  std::ranges::fill(out, std::byte{0xff});
}

void PciBus::write(std::uint64_t place, std::span<const std::byte> in) {
  if (PciFunction* const function = find(place, in.size())) {
    function->write_config(place & register_mask, in);
  }
}

void PciBus::Mapped::read(std::uint64_t offset, std::span<std::byte> out) { bus.read(offset, out); }
void PciBus::Mapped::write(std::uint64_t offset, std::span<const std::byte> in) {
  bus.write(offset, in);
}

// The address port: enable in bit 31, bus in 16 to 23, device in 11 to 15, function in
// 8 to 10, register below.
bool PciBus::Ports::data_place(std::uint64_t offset, std::size_t length, std::uint64_t& place) {
  const std::lock_guard lock(mutex);
  const bool on_bus_0 = (address & 0x80ff0000) == 0x80000000;
  place = std::uint64_t{address >> 8 & 0xff} << function_shift | (address & 0xfc) | (offset & 3);
  return on_bus_0 && (offset & 3) + length <= 4;
}

void PciBus::Ports::read(std::uint64_t offset, std::span<std::byte> out) {
  constexpr std::uint64_t data = 4;
  std::uint64_t place = 0;
  std::ranges::fill(out, std::byte{0xff});
  if (offset == 0 && out.size() == 4) {
    const std::lock_guard lock(mutex);
    put_value(address, out);
  } else if (offset >= data && data_place(offset, out.size(), place)) {
    bus.read(place, out);
  }
}

void PciBus::Ports::write(std::uint64_t offset, std::span<const std::byte> in) {
  constexpr std::uint64_t data = 4;
  std::uint64_t place = 0;
  if (offset == 0 && in.size() == 4) {
    const std::lock_guard lock(mutex);
    address = static_cast<std::uint32_t>(value_of(in));
  } else if (offset >= data && data_place(offset, in.size(), place)) {
    bus.write(place, in);
  }
}

}  // namespace tidepool::vmm
