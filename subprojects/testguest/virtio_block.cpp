#include "virtio_block.h"

#include "console.h"
#include "guest.h"

namespace {

constexpr uint32_t feature_event_index = 1U << 29;
constexpr uint32_t feature_flush = 1U << 9, feature_discard = 1U << 13;
constexpr uint32_t patience = 200'000'000;

}  // namespace

void BlockDriver::start(const VirtioPciDevice& device, bool event_index) {
  device_ = device;
  features_ =
      negotiate(device, feature_flush | feature_discard | (event_index ? feature_event_index : 0));
  if (headers_ == nullptr) {
    headers_ = take_memory(16U * VirtioQueue::entries, 16);
    answers_ = take_memory(VirtioQueue::entries, 1);
  }
  queue_.start(device, 0, event_index);
  start_device(device);
  sectors_ = read_at<uint32_t>(device.device);
}

bool BlockDriver::has_flush() const { return (features_ & feature_flush) != 0; }

// Three descriptors for each slot: header, data, answer.
void BlockDriver::add(Command command, uint32_t first_sector, void* data, uint32_t bytes,
                      uint16_t slot) {
  const uint32_t header = address_of(headers_) + 16U * slot;
  write_at<uint32_t>(header, command);
  write_at<uint32_t>(header + 4, 0);
  write_at<uint32_t>(header + 8, first_sector);
  write_at<uint32_t>(header + 12, 0);
  answers_[slot] = 0xee;
  const auto head = static_cast<uint16_t>(3 * slot);
  const auto second = static_cast<uint16_t>(head + 1), third = static_cast<uint16_t>(head + 2);
  const bool to_guest = command == read || command == get_id;
  queue_.describe(head, header, 16, descriptor_next, bytes > 0 ? second : third);
  if (bytes > 0) {
    queue_.describe(second, address_of(data), bytes,
                    static_cast<uint16_t>(descriptor_next | (to_guest ? descriptor_write : 0)),
                    third);
  }
  queue_.describe(third, address_of(answers_ + slot), 1, descriptor_write, 0);
  queue_.publish(head);
}

void BlockDriver::wait(uint32_t count) {
  for (uint32_t turns = 0; queue_.waiting() < count;) {
    ++turns;
    require(turns < patience, "no answer after turns", turns);
    require(!broken(), "the device says that it is broken");
  }
  while (count-- > 0) queue_.take();
}

uint8_t BlockDriver::run(Command command, uint32_t first_sector, void* data, uint32_t bytes) {
  add(command, first_sector, data, bytes, 0);
  queue_.kick();
  wait(1);
  return *static_cast<volatile uint8_t*>(answers_);
}

uint32_t BlockDriver::write_pages(uint32_t first_sector, uint8_t* data, uint32_t pages) {
  for (uint32_t i = 0; i < pages; ++i) {
    add(write, first_sector + i * 8, data + i * 4096, 4096, static_cast<uint16_t>(i));
  }
  queue_.kick();
  wait(pages);
  uint32_t failed = 0;
  for (uint32_t i = 0; i < pages; ++i) failed += answers_[i] != 0 ? 1 : 0;
  return failed;
}
