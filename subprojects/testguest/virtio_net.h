// A driver of one virtio network device, polling, which sends back what it gets.
#pragma once

#include <stdint.h>

#include "pci.h"

class NetDriver {
 public:
  // mergeable: many small buffers instead of a few that hold a packet each.
  void start(const VirtioPciDevice& device, bool mergeable);
  // Sends packets of type 0x88b5 to this card back, until one of type 0x88b6; how many.
  uint32_t echo();
  void stop();

 private:
  static constexpr uint16_t entries = 64;
  struct Queue {
    uint8_t *descriptors = nullptr, *available = nullptr, *used = nullptr;
    uint32_t doorbell = 0;
    uint16_t number = 0, next_available = 0, next_used = 0;
  };
  void set_up(Queue& queue, uint16_t number);
  void describe(Queue& queue, uint16_t index, const void* data, uint32_t length, uint16_t flags,
                uint16_t next);
  void publish(Queue& queue, uint16_t head);
  void kick(const Queue& queue);
  uint16_t waiting(const Queue& queue) const;
  void offer(uint16_t buffer);
  uint8_t* buffer(uint16_t index) { return buffers_ + index * buffer_bytes_; }
  bool is_for_us(const uint8_t* frame) const;

  VirtioPciDevice device_;
  Queue receive_, transmit_;
  uint8_t* buffers_ = nullptr;
  uint32_t buffer_bytes_ = 0;
};
