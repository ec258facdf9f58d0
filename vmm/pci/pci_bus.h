// The PCI bus of a guest: a host bridge and up to 31 functions, reached by the mapped
// configuration space (ECAM) and by the two ports of old.
//
// Functions are added before the guest runs.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/result.h"
#include "vmm/devices/bus.h"
#include "vmm/pci/config_space.h"
#include "vmm/state/board_state.h"

namespace tidepool::vmm {

class PciFunction {
 public:
  virtual ~PciFunction() = default;
  // 1, 2 or 4 bytes, aligned. Any vCPU's thread.
  virtual void read_config(std::uint64_t offset, std::span<std::byte> out) = 0;
  virtual void write_config(std::uint64_t offset, std::span<const std::byte> in) = 0;
};

class HostBridge;

class PciBus {
 public:
  static constexpr unsigned most_functions = 32;  // the bridge is one
  static constexpr std::uint16_t config_port = 0xcf8;
  static constexpr std::uint64_t config_ports = 8;

  PciBus();
  ~PciBus();
  Result<> add(PciFunction& function);

  BusDevice& mapped_config() { return mapped_; }
  BusDevice& config_by_ports() { return ports_; }

  PciBusState save();
  Result<> restore(const PciBusState& state);

 private:
  struct Mapped final : BusDevice {
    PciBus& bus;
    explicit Mapped(PciBus& owner) : bus(owner) {}
    void read(std::uint64_t offset, std::span<std::byte> out) override;
    void write(std::uint64_t offset, std::span<const std::byte> in) override;
  };
  struct Ports final : BusDevice {
    PciBus& bus;
    std::mutex mutex;           // guards address
    std::uint32_t address = 0;  // what the data port means
    explicit Ports(PciBus& owner) : bus(owner) {}
    void read(std::uint64_t offset, std::span<std::byte> out) override;
    void write(std::uint64_t offset, std::span<const std::byte> in) override;
    bool data_place(std::uint64_t offset, std::size_t length, std::uint64_t& place);
  };
  // place: device in bits 15 to 19, function in 12 to 14, register below; as in ECAM.
  void read(std::uint64_t place, std::span<std::byte> out);
  void write(std::uint64_t place, std::span<const std::byte> in);
  PciFunction* find(std::uint64_t place, std::size_t length) const;

  std::unique_ptr<HostBridge> bridge_;
  std::vector<PciFunction*> functions_;  // by device number; constant when the guest runs
  Mapped mapped_{*this};
  Ports ports_{*this};
};

}  // namespace tidepool::vmm
