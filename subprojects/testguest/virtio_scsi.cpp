#include "virtio_scsi.h"

#include "console.h"
#include "guest.h"

namespace {

constexpr uint32_t header_bytes = 51, answer_bytes = 108;
constexpr uint16_t request_queue = 2;
constexpr uint32_t patience = 200'000'000;

}  // namespace

void ScsiDriver::start(const VirtioPciDevice& device) {
  device_ = device;
  negotiate(device, 0);
  if (header_ == nullptr) {
    header_ = take_memory(header_bytes, 16);
    answer_ = take_memory(answer_bytes, 16);
  }
  queue_.start(device, request_queue, false);
  start_device(device);
}

void ScsiDriver::stop() { stop_device(device_); }

uint32_t ScsiDriver::residual() const { return read_at<uint32_t>(address_of(answer_) + 4); }

void ScsiDriver::describe(uint16_t index, const void* data, uint32_t length, uint16_t flags) {
  queue_.describe(index, address_of(data), length, flags, static_cast<uint16_t>(index + 1));
}

void ScsiDriver::publish() {
  queue_.publish(0);
  queue_.kick();
}

uint8_t ScsiDriver::run(const Command& command, void* data, uint32_t bytes) {
  memset(header_, 0, header_bytes);
  header_[0] = 1;
  header_[1] = command.target;
  header_[2] = 0x40;
  header_[3] = command.unit;
  memcpy(header_ + 19, command.cdb, sizeof command.cdb);
  memset(answer_, 0xee, answer_bytes);
  uint16_t next = 0;
  describe(next++, header_, header_bytes, descriptor_next);
  if (bytes > 0 && !command.to_guest) describe(next++, data, bytes, descriptor_next);
  const bool reads = bytes > 0 && command.to_guest;
  describe(next++, answer_, answer_bytes,
           reads ? descriptor_next | descriptor_write : descriptor_write);
  if (reads) describe(next++, data, bytes, descriptor_write);
  publish();
  for (uint32_t turns = 0; queue_.waiting() == 0; ++turns) {
    require(turns < patience, "no answer after turns", turns);
    require(!is_broken(device_), "the device says that it is broken");
  }
  queue_.take();
  return *static_cast<volatile uint8_t*>(answer_ + 11);
}

bool ScsiDriver::lie() {
  describe(0, header_, header_bytes, 0);
  publish();
  for (uint32_t turns = 0; turns < patience; ++turns) {
    if (is_broken(device_)) return true;
  }
  return false;
}
