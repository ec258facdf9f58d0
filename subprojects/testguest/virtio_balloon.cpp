#include "virtio_balloon.h"

#include "console.h"
#include "guest.h"

namespace {

constexpr uint16_t flag_next = 1, flag_write = 2;
constexpr uint32_t acknowledge = 1, driver = 2, driver_ok = 4, features_ok = 8, needs_reset = 0x40;
constexpr uint32_t feature_reporting = 1U << 5;
constexpr uint32_t target_offset = 0, held_offset = 4;

uint32_t address_of(const void* pointer) { return reinterpret_cast<uint32_t>(pointer); }

}  // namespace

void BalloonDriver::start(const VirtioPciDevice& device) {
  device_ = device;
  const uint32_t common = device.common;
  const auto set_status = [&](uint32_t status) {
    write_at<uint8_t>(common + 20, static_cast<uint8_t>(status));
  };
  set_status(0);
  while (read_at<uint8_t>(common + 20) != 0) {
  }
  set_status(acknowledge | driver);
  write_at<uint32_t>(common + 0, 0);
  require((read_at<uint32_t>(common + 4) & feature_reporting) != 0, "no free page reporting");
  write_at<uint32_t>(common + 8, 0);
  write_at<uint32_t>(common + 12, feature_reporting);
  write_at<uint32_t>(common + 8, 1);
  write_at<uint32_t>(common + 12, 1);  // version 1
  set_status(acknowledge | driver | features_ok);
  require((read_at<uint8_t>(common + 20) & features_ok) != 0, "features are refused");
  numbers_ = reinterpret_cast<uint32_t*>(take_memory(batch * 4, 4));
  for (uint16_t i = 0; i < 3; ++i) set_up(queues_[i], i);
  set_status(acknowledge | driver | features_ok | driver_ok);
}

void BalloonDriver::set_up(Queue& queue, uint16_t number) {
  const uint32_t common = device_.common;
  queue.descriptors = take_memory(16U * entries, 16);
  queue.available = take_memory(6U + 2U * entries, 2);
  queue.used = take_memory(6U + 8U * entries, 4);
  memset(queue.descriptors, 0, 16U * entries);
  memset(queue.available, 0, 6U + 2U * entries);
  memset(queue.used, 0, 6U + 8U * entries);
  write_at<uint16_t>(common + 22, number);
  require(read_at<uint16_t>(common + 24) >= entries, "the queue is too short");
  write_at<uint16_t>(common + 24, entries);
  write_at<uint32_t>(common + 32, address_of(queue.descriptors));
  write_at<uint32_t>(common + 36, 0);
  write_at<uint32_t>(common + 40, address_of(queue.available));
  write_at<uint32_t>(common + 44, 0);
  write_at<uint32_t>(common + 48, address_of(queue.used));
  write_at<uint32_t>(common + 52, 0);
  queue.doorbell = device_.notify + read_at<uint16_t>(common + 30) * device_.notify_multiplier;
  write_at<uint16_t>(common + 28, 1);
}

uint32_t BalloonDriver::target() const { return read_at<uint32_t>(device_.device + target_offset); }

void BalloonDriver::set_held(uint32_t pages) {
  write_at<uint32_t>(device_.device + held_offset, pages);
}

bool BalloonDriver::is_broken() const {
  return (read_at<uint8_t>(device_.common + 20) & needs_reset) != 0;
}

void BalloonDriver::describe(Queue& queue, uint16_t index, uint32_t address, uint32_t length,
                             uint16_t flags) {
  const uint32_t at = address_of(queue.descriptors) + 16U * index;
  write_at<uint32_t>(at, address);
  write_at<uint32_t>(at + 4, 0);
  write_at<uint32_t>(at + 8, length);
  write_at<uint16_t>(at + 12, flags);
  write_at<uint16_t>(at + 14, static_cast<uint16_t>(index + 1));
}

// One chain at a time, always from the first descriptor on.
void BalloonDriver::publish(Queue& queue) {
  const uint32_t at = address_of(queue.available);
  write_at<uint16_t>(at + 4 + 2U * (queue.count % entries), 0);
  fence();
  write_at<uint16_t>(at + 2, ++queue.count);
  fence();
  write_at<uint16_t>(queue.doorbell, 0);
}

void BalloonDriver::wait(const Queue& queue) const {
  while (read_at<uint16_t>(address_of(queue.used) + 2) != queue.count) {
    require(!is_broken(), "the device says that it is broken");
  }
  fence();
}

void BalloonDriver::tell(Queue& queue, uint32_t address, uint32_t pages) {
  for (uint32_t done = 0; done < pages;) {
    uint32_t count = 0;
    while (count < batch && done < pages) numbers_[count++] = address / page + done++;
    describe(queue, 0, address_of(numbers_), count * 4, 0);
    publish(queue);
    wait(queue);
  }
}

void BalloonDriver::report(uint32_t first, uint32_t second, uint32_t bytes) {
  Queue& queue = queues_[2];
  describe(queue, 0, first, bytes, flag_next | flag_write);
  describe(queue, 1, second, bytes, flag_write);
  publish(queue);
  wait(queue);
}

void BalloonDriver::lie() {
  numbers_[0] = 0xffffffff;
  describe(queues_[0], 0, address_of(numbers_), 4, 0);
  publish(queues_[0]);
}
