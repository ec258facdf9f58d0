#include "virtio_scsi.h"

#include "console.h"
#include "guest.h"

namespace {

constexpr uint16_t flag_next = 1, flag_write = 2;
constexpr uint32_t acknowledge = 1, driver = 2, driver_ok = 4, features_ok = 8;
constexpr uint32_t header_bytes = 51, answer_bytes = 108;
constexpr uint16_t request_queue = 2;
constexpr uint32_t patience = 200'000'000;

uint32_t address_of(const void* pointer) { return reinterpret_cast<uint32_t>(pointer); }

}  // namespace

void ScsiDriver::start(const VirtioPciDevice& device) {
  device_ = device;
  next_available_ = next_used_ = 0;
  const uint32_t common = device.common;
  const auto set_status = [&](uint32_t status) {
    write_at<uint8_t>(common + 20, static_cast<uint8_t>(status));
  };
  set_status(0);
  while (read_at<uint8_t>(common + 20) != 0) {
  }
  set_status(acknowledge | driver);
  write_at<uint32_t>(common + 8, 0);
  write_at<uint32_t>(common + 12, 0);
  write_at<uint32_t>(common + 8, 1);
  write_at<uint32_t>(common + 12, 1);  // version 1
  set_status(acknowledge | driver | features_ok);
  require((read_at<uint8_t>(common + 20) & features_ok) != 0, "features are refused");
  if (descriptors_ == nullptr) {
    descriptors_ = take_memory(16U * entries, 16);
    available_ = take_memory(6U + 2U * entries, 2);
    used_ = take_memory(6U + 8U * entries, 4);
    header_ = take_memory(header_bytes, 16);
    answer_ = take_memory(answer_bytes, 16);
  }
  memset(available_, 0, 6U + 2U * entries);
  memset(used_, 0, 6U + 8U * entries);
  write_at<uint16_t>(common + 22, request_queue);
  require(read_at<uint16_t>(common + 24) >= entries, "the queue is too short");
  write_at<uint16_t>(common + 24, entries);
  write_at<uint32_t>(common + 32, address_of(descriptors_));
  write_at<uint32_t>(common + 36, 0);
  write_at<uint32_t>(common + 40, address_of(available_));
  write_at<uint32_t>(common + 44, 0);
  write_at<uint32_t>(common + 48, address_of(used_));
  write_at<uint32_t>(common + 52, 0);
  doorbell_ = device.notify + read_at<uint16_t>(common + 30) * device.notify_multiplier;
  write_at<uint16_t>(common + 28, 1);
  set_status(acknowledge | driver | features_ok | driver_ok);
}

void ScsiDriver::stop() { write_at<uint8_t>(device_.common + 20, 0); }

uint32_t ScsiDriver::residual() const { return read_at<uint32_t>(address_of(answer_) + 4); }

void ScsiDriver::describe(uint16_t index, const void* data, uint32_t length, uint16_t flags) {
  const uint32_t at = address_of(descriptors_) + 16U * index;
  write_at<uint32_t>(at, address_of(data));
  write_at<uint32_t>(at + 4, 0);
  write_at<uint32_t>(at + 8, length);
  write_at<uint16_t>(at + 12, flags);
  write_at<uint16_t>(at + 14, static_cast<uint16_t>(index + 1));
}

// The chain that begins with descriptor 0.
void ScsiDriver::publish() {
  const uint32_t at = address_of(available_);
  write_at<uint16_t>(at + 4 + 2U * (next_available_ % entries), 0);
  fence();
  write_at<uint16_t>(at + 2, ++next_available_);
  fence();
  write_at<uint16_t>(doorbell_, request_queue);
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
  describe(next++, header_, header_bytes, flag_next);
  if (bytes > 0 && !command.to_guest) describe(next++, data, bytes, flag_next);
  const bool reads = bytes > 0 && command.to_guest;
  describe(next++, answer_, answer_bytes, reads ? flag_next | flag_write : flag_write);
  if (reads) describe(next++, data, bytes, flag_write);
  publish();
  for (uint32_t turns = 0; read_at<uint16_t>(address_of(used_) + 2) == next_used_; ++turns) {
    require(turns < patience, "no answer after turns", turns);
    require((read_at<uint8_t>(device_.common + 20) & 0x40) == 0,
            "the device says that it is broken");
  }
  ++next_used_;
  fence();
  return *static_cast<volatile uint8_t*>(answer_ + 11);
}

bool ScsiDriver::lie() {
  describe(0, header_, header_bytes, 0);
  publish();
  for (uint32_t turns = 0; turns < patience; ++turns) {
    if ((read_at<uint8_t>(device_.common + 20) & 0x40) != 0) return true;
  }
  return false;
}
