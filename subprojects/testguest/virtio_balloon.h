// A driver of the virtio balloon, polling: gives pages away, takes them back, reports free
// memory.
#pragma once

#include <stdint.h>

#include "virtio_queue.h"

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
  bool is_broken() const { return ::is_broken(device_); }

 private:
  static constexpr uint32_t batch = 256;  // page numbers
  void tell(VirtioQueue& queue, uint32_t address, uint32_t pages);
  void wait(VirtioQueue& queue);

  VirtioPciDevice device_;
  VirtioQueue queues_[3];
  uint32_t* numbers_ = nullptr;
};
