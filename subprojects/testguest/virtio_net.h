// A driver of one virtio network device, polling, which sends back what it gets.
#pragma once

#include <stdint.h>

#include "virtio_queue.h"

class NetDriver {
 public:
  // mergeable: many small buffers instead of a few that hold a packet each.
  void start(const VirtioPciDevice& device, bool mergeable);
  // Sends packets of type 0x88b5 to this card back, until one of type 0x88b6; how many.
  uint32_t echo();
  void stop() { stop_device(device_); }

 private:
  static constexpr uint16_t buffers = VirtioQueue::entries;
  void wait(const VirtioQueue& queue) const;
  void offer(uint16_t buffer);
  uint8_t* buffer(uint16_t index) { return buffers_ + index * buffer_bytes_; }
  bool is_for_us(const uint8_t* frame) const;

  VirtioPciDevice device_;
  VirtioQueue receive_, transmit_;
  uint8_t* buffers_ = nullptr;
  uint32_t buffer_bytes_ = 0;
  bool mergeable_ = false;
};
