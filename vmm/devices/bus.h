// Who answers at which address: one bus for ports, one for memory addresses.
//
// Any thread. A device is called without any lock of the bus; it lives as long as the
// bus is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <shared_mutex>
#include <span>

#include "base/result.h"

namespace tidepool::vmm {

class BusDevice {
 public:
  virtual ~BusDevice() = default;
  // offset: from the start of its range, which holds all of the access (1 to 8 bytes).
  // Called by any vCPU's thread.
  virtual void read(std::uint64_t offset, std::span<std::byte> out) = 0;
  virtual void write(std::uint64_t offset, std::span<const std::byte> in) = 0;
};

class Bus {
 public:
  // busy: something is there already.
  Result<> add(std::uint64_t address, std::uint64_t length, BusDevice& device);
  void remove(std::uint64_t address);

  // Where nobody answers, reads give ones and writes are lost.
  void read(std::uint64_t address, std::span<std::byte> out) const;
  void write(std::uint64_t address, std::span<const std::byte> in) const;

 private:
  struct Range {
    std::uint64_t length;
    BusDevice* device;
  };
  struct Place {
    BusDevice* device = nullptr;
    std::uint64_t offset = 0;
  };
  Place find(std::uint64_t address, std::size_t length) const;

  mutable std::shared_mutex mutex_;  // guards ranges_
  std::map<std::uint64_t, Range> ranges_;
};

// The little-endian value of an access of 1, 2, 4 or 8 bytes, and the other way round.
std::uint64_t value_of(std::span<const std::byte> in);
void put_value(std::uint64_t value, std::span<std::byte> out);

}  // namespace tidepool::vmm
