// A driver of one virtio block device with one queue, polling.
#pragma once

#include <stdint.h>

#include "pci.h"

class BlockDriver {
 public:
  static constexpr uint32_t sector = 512;
  enum Command : uint32_t { read = 0, write = 1, flush = 4, get_id = 8, discard = 11 };

  // Negotiates, sets the queue up; fails the test if the device does not play along.
  void start(const VirtioPciDevice& device, bool event_index);
  void stop();  // resets the device

  uint32_t sectors() const { return sectors_; }
  uint8_t status() const;
  bool has_flush() const;

  // One request, until it is answered; the status byte. data: `bytes` of it.
  uint8_t run(Command command, uint32_t first_sector, void* data, uint32_t bytes);
  // Several writes at once, one page each, from `data` on; the number that failed.
  uint32_t write_pages(uint32_t first_sector, uint8_t* data, uint32_t pages);
  uint32_t kicks() const { return kicks_; }

  // For a driver that lies.
  void publish(uint16_t head);
  void describe(uint16_t index, uint32_t address, uint32_t length, uint16_t flags, uint16_t next);
  void kick();

 private:
  static constexpr uint16_t entries = 64;
  uint16_t add(Command command, uint32_t first_sector, void* data, uint32_t bytes, uint16_t slot);
  void wait(uint32_t count);

  VirtioPciDevice device_;
  bool event_index_ = false;
  uint32_t sectors_ = 0, kicks_ = 0, features_ = 0;
  uint32_t doorbell_ = 0;
  uint8_t *descriptors_ = nullptr, *available_ = nullptr, *used_ = nullptr;
  uint8_t *headers_ = nullptr, *answers_ = nullptr;
  uint16_t next_available_ = 0, next_used_ = 0, kicked_at_ = 0;
};
