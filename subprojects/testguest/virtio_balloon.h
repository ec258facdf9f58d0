// A driver of the virtio balloon, polling: gives pages away, takes them back, reports free
// memory.
#pragma once

#include <stdint.h>

#include "pci.h"

class BalloonDriver {
 public:
  static constexpr uint32_t page = 4096;

  void start(const VirtioPciDevice& device);
  uint32_t target() const;  // pages
  void inflate(uint32_t address, uint32_t pages) { tell(queues_[0], address, pages); }
  void deflate(uint32_t address, uint32_t pages) { tell(queues_[1], address, pages); }
  void set_held(uint32_t pages);
  // Two pieces of free memory at once.
  void report(uint32_t first, uint32_t second, uint32_t bytes);
  // A page that is none.
  void lie();
  bool is_broken() const;

 private:
  static constexpr uint16_t entries = 16;
  static constexpr uint32_t batch = 256;  // page numbers
  struct Queue {
    uint8_t *descriptors = nullptr, *available = nullptr, *used = nullptr;
    uint32_t doorbell = 0;
    uint16_t count = 0;  // of chains
  };
  void set_up(Queue& queue, uint16_t number);
  void tell(Queue& queue, uint32_t address, uint32_t pages);
  void describe(Queue& queue, uint16_t index, uint32_t address, uint32_t length, uint16_t flags);
  void publish(Queue& queue);
  void wait(const Queue& queue) const;

  VirtioPciDevice device_;
  Queue queues_[3];
  uint32_t* numbers_ = nullptr;
};
