// What a machine has done since it began, in numbers.
#pragma once

#include <cstdint>
#include <vector>

#include "virtio/balloon_device.h"
#include "vmm/pci/device_figures.h"

namespace tidepool::vmm {

// Why the guest was left, by all vCPUs.
struct ExitFigures {
  std::uint64_t port = 0;         // an access to a port
  std::uint64_t memory = 0;       // to memory that is a device
  std::uint64_t other = 0;        // the rest that the guest caused
  std::uint64_t interrupted = 0;  // none of its doing: a pause, a save
};

struct MachineFigures {
  ExitFigures exits;
  std::uint64_t memory = 0;       // bytes that the guest has
  std::uint64_t memory_used = 0;  // bytes of it that are the host's
  virtio::BalloonFigures balloon;
  std::vector<DeviceFigures> devices;
};

}  // namespace tidepool::vmm
