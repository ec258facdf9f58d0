// What a device has done since its machine began, in numbers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace tidepool::vmm {

struct DeviceFigures {
  std::string name;
  unsigned slot = 0;             // on the bus
  std::uint64_t interrupts = 0;  // of its queues
  struct Served {
    std::uint64_t kicks = 0, requests = 0, bytes_from_guest = 0, bytes_to_guest = 0;
  };
  std::optional<Served> served;  // none: by another process
};

}  // namespace tidepool::vmm
