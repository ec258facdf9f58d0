// A driver of one virtio block device with one queue, polling.
#pragma once

#include <stdint.h>

#include "virtio_queue.h"

class BlockDriver {
 public:
  static constexpr uint32_t sector = 512;
  enum Command : uint32_t { read = 0, write = 1, flush = 4, get_id = 8, discard = 11 };

  // Negotiates, sets the queue up; fails the test if the device does not play along.
  void start(const VirtioPciDevice& device, bool event_index);
  void stop() { stop_device(device_); }

  uint32_t sectors() const { return sectors_; }
  bool broken() const { return is_broken(device_); }
  bool has_flush() const;

  // One request, until it is answered; the status byte. data: `bytes` of it.
  uint8_t run(Command command, uint32_t first_sector, void* data, uint32_t bytes);
  // Several writes at once, one page each, from `data` on; the number that failed.
  uint32_t write_pages(uint32_t first_sector, uint8_t* data, uint32_t pages);

  // Also for a driver that lies.
  VirtioQueue& queue() { return queue_; }

 private:
  void add(Command command, uint32_t first_sector, void* data, uint32_t bytes, uint16_t slot);
  void wait(uint32_t count);

  VirtioPciDevice device_;
  VirtioQueue queue_;
  uint32_t sectors_ = 0, features_ = 0;
  uint8_t *headers_ = nullptr, *answers_ = nullptr;
};
