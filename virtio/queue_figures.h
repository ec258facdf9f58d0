// What a queue's server has done since the machine began: for figures, nothing depends on
// them.
#pragma once

#include <atomic>
#include <cstdint>

namespace tidepool::virtio {

// Counted by one thread, read by any.
class Count {
 public:
  void add(std::uint64_t more) {
    value_.store(value_.load(std::memory_order_relaxed) + more, std::memory_order_relaxed);
  }
  operator std::uint64_t() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

struct QueueFigures {
  Count kicks;             // of the driver that the server heard
  Count requests;          // chains that were given back
  Count bytes_from_guest;  // in them, headers included
  Count bytes_to_guest;
};

}  // namespace tidepool::virtio
