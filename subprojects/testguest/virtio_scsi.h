// A driver of a virtio SCSI adapter with one request queue, one request at a time, polling.
#pragma once

#include <stdint.h>

#include "virtio_queue.h"

class ScsiDriver {
 public:
  // Negotiates, sets the queue up; fails the test if the device does not play along.
  void start(const VirtioPciDevice& device);
  void stop();  // resets the device

  struct Command {
    uint8_t cdb[16];
    uint8_t target, unit;
    bool to_guest;
  };
  // Until it is answered; the response. data: `bytes` of it.
  uint8_t run(const Command& command, void* data, uint32_t bytes);
  // Of the last one that was answered.
  uint8_t status() const { return answer_[10]; }
  uint8_t sense_key() const { return answer_[0] > 2 ? answer_[14] & 0x0f : 0; }
  uint32_t residual() const;

  // A request without room for its answer; whether the device says that it is broken.
  bool lie();

 private:
  void describe(uint16_t index, const void* data, uint32_t length, uint16_t flags);
  void publish();  // the chain that begins with descriptor 0

  VirtioPciDevice device_;
  VirtioQueue queue_;
  uint8_t *header_ = nullptr, *answer_ = nullptr;
};
