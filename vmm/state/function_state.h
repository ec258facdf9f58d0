// A PCI function and the virtio device behind it: registers, interrupt table, and how
// far each queue has come.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace tidepool::vmm {

struct QueueState {
  std::uint16_t size = 0, vector = 0;
  bool enabled = false;
  std::uint64_t descriptors = 0, available = 0, used = 0;  // guest addresses
  std::uint16_t next_available = 0, next_used = 0;
};

struct VectorState {
  std::uint64_t address = 0;
  std::uint32_t data = 0;
  bool masked = true, pending = false;
};

struct FunctionState {
  std::uint32_t device = 0;                   // virtio's number of its kind
  std::array<std::byte, 64> device_config{};  // tells a disk of another size
  std::array<std::uint8_t, 256> config{};     // PCI's registers
  std::uint8_t status = 0;
  bool started = false, broken = false;
  std::uint32_t device_feature_select = 0, driver_feature_select = 0;
  std::uint64_t driver_features = 0;
  std::uint16_t queue_select = 0, config_vector = 0;
  std::vector<QueueState> queues;
  std::vector<VectorState> vectors;
  std::vector<std::byte> inner;  // what the device keeps beside its queues
};

std::vector<std::byte> encode(const FunctionState& state);
// nullopt: makes no sense.
std::optional<FunctionState> decode_function(std::span<const std::byte> bytes);

}  // namespace tidepool::vmm
