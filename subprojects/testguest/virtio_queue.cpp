#include "virtio_queue.h"

#include "console.h"
#include "guest.h"

namespace {

// Places in the common configuration.
constexpr uint32_t device_feature_select = 0, device_feature = 4, driver_feature_select = 8,
                   driver_feature = 12, device_status = 20, queue_select = 22, queue_size = 24,
                   queue_enable = 28, queue_notify_offset = 30, queue_descriptors = 32,
                   queue_available = 40, queue_used = 48;
constexpr uint8_t acknowledge = 1, driver = 2, driver_ok = 4, features_ok = 8, needs_reset = 0x40;

constexpr uint32_t descriptor_bytes = 16U * VirtioQueue::entries,
                   available_bytes = 6U + 2U * VirtioQueue::entries,
                   used_bytes = 6U + 8U * VirtioQueue::entries;

uint8_t status(const VirtioPciDevice& device) {
  return read_at<uint8_t>(device.common + device_status);
}
void set_status(const VirtioPciDevice& device, uint8_t value) {
  write_at<uint8_t>(device.common + device_status, value);
}
void clear(uint32_t address, uint32_t bytes) { memset(reinterpret_cast<void*>(address), 0, bytes); }

}  // namespace

uint32_t negotiate(const VirtioPciDevice& device, uint32_t wanted) {
  set_status(device, 0);
  while (status(device) != 0) {
  }
  set_status(device, acknowledge | driver);
  write_at<uint32_t>(device.common + device_feature_select, 0);
  const uint32_t taken = read_at<uint32_t>(device.common + device_feature) & wanted;
  write_at<uint32_t>(device.common + driver_feature_select, 0);
  write_at<uint32_t>(device.common + driver_feature, taken);
  write_at<uint32_t>(device.common + driver_feature_select, 1);
  write_at<uint32_t>(device.common + driver_feature, 1);  // version 1
  set_status(device, acknowledge | driver | features_ok);
  require((status(device) & features_ok) != 0, "features are refused");
  return taken;
}

void start_device(const VirtioPciDevice& device) {
  set_status(device, acknowledge | driver | features_ok | driver_ok);
}

void stop_device(const VirtioPciDevice& device) { set_status(device, 0); }

bool is_broken(const VirtioPciDevice& device) { return (status(device) & needs_reset) != 0; }

void VirtioQueue::start(const VirtioPciDevice& device, uint16_t number, bool event_index) {
  if (descriptors_ == 0) {
    descriptors_ = address_of(take_memory(descriptor_bytes, 16));
    available_ = address_of(take_memory(available_bytes, 2));
    used_ = address_of(take_memory(used_bytes, 4));
  }
  clear(descriptors_, descriptor_bytes);
  clear(available_, available_bytes);
  clear(used_, used_bytes);
  number_ = number;
  event_index_ = event_index;
  next_available_ = next_used_ = kicked_at_ = 0;
  const uint32_t common = device.common;
  write_at<uint16_t>(common + queue_select, number);
  require(read_at<uint16_t>(common + queue_size) >= entries, "the queue is too short");
  write_at<uint16_t>(common + queue_size, entries);
  const uint32_t places[][2] = {
      {queue_descriptors, descriptors_}, {queue_available, available_}, {queue_used, used_}};
  for (const auto& [place, address] : places) {
    write_at<uint32_t>(common + place, address);
    write_at<uint32_t>(common + place + 4, 0);
  }
  doorbell_ =
      device.notify + read_at<uint16_t>(common + queue_notify_offset) * device.notify_multiplier;
  write_at<uint16_t>(common + queue_enable, 1);
}

void VirtioQueue::describe(uint16_t index, uint32_t address, uint32_t length, uint16_t flags,
                           uint16_t next) {
  const uint32_t at = descriptors_ + 16U * index;
  write_at<uint32_t>(at, address);
  write_at<uint32_t>(at + 4, 0);
  write_at<uint32_t>(at + 8, length);
  write_at<uint16_t>(at + 12, flags);
  write_at<uint16_t>(at + 14, next);
}

void VirtioQueue::publish(uint16_t head) {
  write_at<uint16_t>(available_ + 4 + 2U * (next_available_ % entries), head);
  fence();
  write_at<uint16_t>(available_ + 2, ++next_available_);
  fence();
}

void VirtioQueue::kick() {
  bool wanted = (read_at<uint16_t>(used_) & 1) == 0;
  if (event_index_) {
    const uint16_t event = read_at<uint16_t>(used_ + 4 + 8U * entries);
    wanted = static_cast<uint16_t>(next_available_ - 1 - event) <
             static_cast<uint16_t>(next_available_ - kicked_at_);
  }
  kicked_at_ = next_available_;
  if (!wanted) return;
  ++kicks_;
  write_at<uint16_t>(doorbell_, number_);
}

uint16_t VirtioQueue::waiting() const {
  return static_cast<uint16_t>(read_at<uint16_t>(used_ + 2) - next_used_);
}

VirtioQueue::Used VirtioQueue::take() {
  fence();
  const uint32_t entry = used_ + 4 + 8U * (next_used_++ % entries);
  return {read_at<uint32_t>(entry), read_at<uint32_t>(entry + 4)};
}
