#include "virtio_block.h"

#include "console.h"
#include "guest.h"

namespace {

constexpr uint16_t flag_next = 1, flag_write = 2;
constexpr uint32_t acknowledge = 1, driver = 2, driver_ok = 4, features_ok = 8;
constexpr uint32_t feature_event_index = 1U << 29;
constexpr uint32_t feature_flush = 1U << 9, feature_discard = 1U << 13;
constexpr uint32_t patience = 200'000'000;

uint32_t address_of(const void* pointer) { return reinterpret_cast<uint32_t>(pointer); }

}  // namespace

void BlockDriver::start(const VirtioPciDevice& device, bool event_index) {
  device_ = device;
  event_index_ = event_index;
  next_available_ = next_used_ = kicked_at_ = 0;
  const uint32_t common = device.common;
  const auto set_status = [&](uint32_t status) {
    write_at<uint8_t>(common + 20, static_cast<uint8_t>(status));
  };
  set_status(0);
  while (read_at<uint8_t>(common + 20) != 0) {
  }
  set_status(acknowledge | driver);
  write_at<uint32_t>(common + 0, 0);
  features_ =
      read_at<uint32_t>(common + 4) & (feature_flush | feature_discard | feature_event_index);
  if (!event_index) features_ &= ~feature_event_index;
  write_at<uint32_t>(common + 8, 0);
  write_at<uint32_t>(common + 12, features_);
  write_at<uint32_t>(common + 8, 1);
  write_at<uint32_t>(common + 12, 1);  // version 1
  set_status(acknowledge | driver | features_ok);
  require((read_at<uint8_t>(common + 20) & features_ok) != 0, "features are refused");

  if (descriptors_ == nullptr) {
    descriptors_ = take_memory(16U * entries, 16);
    available_ = take_memory(6U + 2U * entries, 2);
    used_ = take_memory(6U + 8U * entries, 4);
    headers_ = take_memory(16U * entries, 16);
    answers_ = take_memory(entries, 1);
  }
  memset(descriptors_, 0, 16U * entries);
  memset(available_, 0, 6U + 2U * entries);
  memset(used_, 0, 6U + 8U * entries);
  write_at<uint16_t>(common + 22, 0);
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
  sectors_ = read_at<uint32_t>(device.device);
}

void BlockDriver::stop() { write_at<uint8_t>(device_.common + 20, 0); }

uint8_t BlockDriver::status() const { return read_at<uint8_t>(device_.common + 20); }
bool BlockDriver::has_flush() const { return (features_ & feature_flush) != 0; }

void BlockDriver::describe(uint16_t index, uint32_t address, uint32_t length, uint16_t flags,
                           uint16_t next) {
  const uint32_t at = address_of(descriptors_) + 16U * index;
  write_at<uint32_t>(at, address);
  write_at<uint32_t>(at + 4, 0);
  write_at<uint32_t>(at + 8, length);
  write_at<uint16_t>(at + 12, flags);
  write_at<uint16_t>(at + 14, next);
}

void BlockDriver::publish(uint16_t head) {
  const uint32_t at = address_of(available_);
  write_at<uint16_t>(at + 4 + 2U * (next_available_ % entries), head);
  fence();
  write_at<uint16_t>(at + 2, ++next_available_);
  fence();
}

void BlockDriver::kick() {
  const uint32_t used = address_of(used_);
  bool wanted = (read_at<uint16_t>(used) & 1) == 0;
  if (event_index_) {
    const uint16_t event = read_at<uint16_t>(used + 4 + 8U * entries);
    wanted = static_cast<uint16_t>(next_available_ - 1 - event) <
             static_cast<uint16_t>(next_available_ - kicked_at_);
  }
  kicked_at_ = next_available_;
  if (!wanted) return;
  ++kicks_;
  write_at<uint16_t>(doorbell_, 0);
}

// Three descriptors for each slot: header, data, answer.
uint16_t BlockDriver::add(Command command, uint32_t first_sector, void* data, uint32_t bytes,
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
  describe(head, header, 16, flag_next, bytes > 0 ? second : third);
  if (bytes > 0) {
    describe(second, address_of(data), bytes,
             static_cast<uint16_t>(flag_next | (to_guest ? flag_write : 0)), third);
  }
  describe(third, address_of(answers_ + slot), 1, flag_write, 0);
  publish(head);
  return head;
}

void BlockDriver::wait(uint32_t count) {
  const uint32_t used = address_of(used_);
  for (uint32_t turns = 0;
       static_cast<uint16_t>(read_at<uint16_t>(used + 2) - next_used_) < count;) {
    ++turns;
    require(turns < patience, "no answer after turns", turns);
    require((status() & 0x40) == 0, "the device says that it is broken");
  }
  next_used_ = static_cast<uint16_t>(next_used_ + count);
  fence();
}

uint8_t BlockDriver::run(Command command, uint32_t first_sector, void* data, uint32_t bytes) {
  add(command, first_sector, data, bytes, 0);
  kick();
  wait(1);
  return *static_cast<volatile uint8_t*>(answers_);
}

uint32_t BlockDriver::write_pages(uint32_t first_sector, uint8_t* data, uint32_t pages) {
  for (uint32_t i = 0; i < pages; ++i) {
    add(write, first_sector + i * 8, data + i * 4096, 4096, static_cast<uint16_t>(i));
  }
  kick();
  wait(pages);
  uint32_t failed = 0;
  for (uint32_t i = 0; i < pages; ++i) failed += answers_[i] != 0 ? 1 : 0;
  return failed;
}
