#include "virtio_balloon.h"

#include "console.h"
#include "guest.h"

namespace {

constexpr uint32_t feature_reporting = 1U << 5;
constexpr uint32_t target_offset = 0, held_offset = 4;

}  // namespace

void BalloonDriver::start(const VirtioPciDevice& device) {
  device_ = device;
  require(negotiate(device, feature_reporting) != 0, "no free page reporting");
  numbers_ = reinterpret_cast<uint32_t*>(take_memory(batch * 4, 4));
  for (uint16_t i = 0; i < 3; ++i) queues_[i].start(device, i, false);
  start_device(device);
}

uint32_t BalloonDriver::target() const { return read_at<uint32_t>(device_.device + target_offset); }

void BalloonDriver::set_held(uint32_t pages) {
  write_at<uint32_t>(device_.device + held_offset, pages);
}

// One chain at a time, always from the first descriptor on.
void BalloonDriver::wait(VirtioQueue& queue) {
  queue.publish(0);
  queue.kick();
  while (queue.waiting() == 0) require(!is_broken(), "the device says that it is broken");
  queue.take();
}

void BalloonDriver::tell(VirtioQueue& queue, uint32_t address, uint32_t pages) {
  for (uint32_t done = 0; done < pages;) {
    uint32_t count = 0;
    while (count < batch && done < pages) numbers_[count++] = address / page + done++;
    queue.describe(0, address_of(numbers_), count * 4, 0, 0);
    wait(queue);
  }
}

void BalloonDriver::report(uint32_t first, uint32_t second, uint32_t bytes) {
  VirtioQueue& queue = queues_[2];
  queue.describe(0, first, bytes, descriptor_next | descriptor_write, 1);
  queue.describe(1, second, bytes, descriptor_write, 0);
  wait(queue);
}

void BalloonDriver::lie() {
  numbers_[0] = 0xffffffff;
  queues_[0].describe(0, address_of(numbers_), 4, 0, 0);
  queues_[0].publish(0);
  queues_[0].kick();
}
