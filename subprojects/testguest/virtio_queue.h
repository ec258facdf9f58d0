// What drivers of virtio devices have in common: the handshake, and a split queue, polled.
#pragma once

#include <stdint.h>

#include "pci.h"

// Resets the device and takes those of the features below bit 32 that it has of `wanted`; which
// these are. Then the queues are started, then the device.
uint32_t negotiate(const VirtioPciDevice& device, uint32_t wanted);
void start_device(const VirtioPciDevice& device);
void stop_device(const VirtioPciDevice& device);
// Whether the device says that it is broken.
bool is_broken(const VirtioPciDevice& device);

class VirtioQueue {
 public:
  static constexpr uint16_t entries = 64;

  // Empty.
  void start(const VirtioPciDevice& device, uint16_t number, bool event_index);

  void describe(uint16_t index, uint32_t address, uint32_t length, uint16_t flags, uint16_t next);
  void publish(uint16_t head);
  // If the device wants to hear of what was published since the last time.
  void kick();
  uint32_t kicks() const { return kicks_; }

  // Of what the device used and take() did not give yet.
  uint16_t waiting() const;
  struct Used {
    uint32_t id, length;
  };
  Used take();

 private:
  bool event_index_ = false;
  uint16_t number_ = 0;
  uint32_t doorbell_ = 0, kicks_ = 0;
  uint32_t descriptors_ = 0, available_ = 0, used_ = 0;  // addresses; kept once taken
  uint16_t next_available_ = 0, next_used_ = 0, kicked_at_ = 0;
};

inline constexpr uint16_t descriptor_next = 1, descriptor_write = 2;
inline uint32_t address_of(const void* pointer) { return reinterpret_cast<uint32_t>(pointer); }
