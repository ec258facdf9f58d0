#include "virtio_net.h"

#include "console.h"
#include "guest.h"

namespace {

constexpr uint16_t flag_next = 1, flag_write = 2;
constexpr uint32_t acknowledge = 1, driver = 2, driver_ok = 4, features_ok = 8;
constexpr uint32_t feature_mergeable = 1U << 15, feature_mac = 1U << 5;
constexpr uint32_t header = 12, frame_header = 14;
constexpr uint32_t small_buffer = 256, large_buffer = 2048;
constexpr uint8_t type_high = 0x88, type_echo = 0xb5, type_end = 0xb6;

uint32_t address_of(const void* pointer) { return reinterpret_cast<uint32_t>(pointer); }

}  // namespace

void NetDriver::start(const VirtioPciDevice& device, bool mergeable) {
  device_ = device;
  const uint32_t common = device.common;
  const auto set_status = [&](uint32_t status) {
    write_at<uint8_t>(common + 20, static_cast<uint8_t>(status));
  };
  set_status(0);
  while (read_at<uint8_t>(common + 20) != 0) {
  }
  set_status(acknowledge | driver);
  const uint32_t wanted = feature_mac | (mergeable ? feature_mergeable : 0);
  write_at<uint32_t>(common + 0, 0);
  require((read_at<uint32_t>(common + 4) & wanted) == wanted, "no such feature");
  write_at<uint32_t>(common + 8, 0);
  write_at<uint32_t>(common + 12, wanted);
  write_at<uint32_t>(common + 8, 1);
  write_at<uint32_t>(common + 12, 1);  // version 1
  set_status(acknowledge | driver | features_ok);
  require((read_at<uint8_t>(common + 20) & features_ok) != 0, "features are refused");
  if (buffers_ == nullptr) buffers_ = take_memory(entries * large_buffer, 16);
  buffer_bytes_ = mergeable ? small_buffer : large_buffer;
  set_up(receive_, 0);
  set_up(transmit_, 1);
  set_status(acknowledge | driver | features_ok | driver_ok);
  for (uint16_t i = 0; i < entries; ++i) offer(i);
  kick(receive_);
}

void NetDriver::set_up(Queue& queue, uint16_t number) {
  const uint32_t common = device_.common;
  if (queue.descriptors == nullptr) {
    queue.descriptors = take_memory(16U * entries, 16);
    queue.available = take_memory(6U + 2U * entries, 2);
    queue.used = take_memory(6U + 8U * entries, 4);
  }
  memset(queue.descriptors, 0, 16U * entries);
  memset(queue.available, 0, 6U + 2U * entries);
  memset(queue.used, 0, 6U + 8U * entries);
  queue.number = number;
  queue.next_available = queue.next_used = 0;
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

void NetDriver::stop() { write_at<uint8_t>(device_.common + 20, 0); }

void NetDriver::describe(Queue& queue, uint16_t index, const void* data, uint32_t length,
                         uint16_t flags, uint16_t next) {
  const uint32_t at = address_of(queue.descriptors) + 16U * index;
  write_at<uint32_t>(at, address_of(data));
  write_at<uint32_t>(at + 4, 0);
  write_at<uint32_t>(at + 8, length);
  write_at<uint16_t>(at + 12, flags);
  write_at<uint16_t>(at + 14, next);
}

void NetDriver::publish(Queue& queue, uint16_t head) {
  const uint32_t at = address_of(queue.available);
  write_at<uint16_t>(at + 4 + 2U * (queue.next_available % entries), head);
  fence();
  write_at<uint16_t>(at + 2, ++queue.next_available);
  fence();
}

void NetDriver::kick(const Queue& queue) {
  if ((read_at<uint16_t>(address_of(queue.used)) & 1) != 0) return;
  write_at<uint16_t>(queue.doorbell, queue.number);
}

uint16_t NetDriver::waiting(const Queue& queue) const {
  require((read_at<uint8_t>(device_.common + 20) & 0x40) == 0, "the device says that it is broken");
  return static_cast<uint16_t>(read_at<uint16_t>(address_of(queue.used) + 2) - queue.next_used);
}

void NetDriver::offer(uint16_t index) {
  describe(receive_, index, buffer(index), buffer_bytes_, flag_write, 0);
  publish(receive_, index);
}

bool NetDriver::is_for_us(const uint8_t* frame) const {
  for (uint32_t i = 0; i < 6; ++i) {
    if (frame[i] != read_at<uint8_t>(device_.device + i)) return false;
  }
  return true;
}

uint32_t NetDriver::echo() {
  static uint8_t no_header[header];
  uint16_t heads[entries];
  for (uint32_t count = 0;;) {
    while (waiting(receive_) == 0) {
    }
    fence();
    uint16_t pieces = 1;
    uint8_t* first = nullptr;
    for (uint16_t i = 0; i < pieces; ++i) {
      require(waiting(receive_) > 0, "a packet of which a part is missing");
      const uint32_t entry = address_of(receive_.used) + 4 + 8U * (receive_.next_used++ % entries);
      heads[i] = static_cast<uint16_t>(read_at<uint32_t>(entry));
      const uint32_t length = read_at<uint32_t>(entry + 4);
      require(heads[i] < entries && length <= buffer_bytes_, "a buffer that is none", length);
      if (i == 0) {
        first = buffer(heads[0]);
        require(length >= header + frame_header, "a short packet", length);
        pieces = read_at<uint16_t>(address_of(first) + 10);
        require(pieces > 0 && pieces <= entries, "a packet in so many buffers:", pieces);
      }
      // The same memory goes out again, behind a header of its own.
      describe(transmit_, static_cast<uint16_t>(i + 1), buffer(heads[i]) + (i == 0 ? header : 0),
               length - (i == 0 ? header : 0), i + 1 < pieces ? flag_next : 0,
               static_cast<uint16_t>(i + 2));
    }
    uint8_t* const frame = first + header;
    const bool ours = is_for_us(frame) && frame[12] == type_high;
    if (ours && frame[13] == type_end) return count;
    if (ours && frame[13] == type_echo) {
      for (uint32_t i = 0; i < 6; ++i) {
        const uint8_t to = frame[i];
        frame[i] = frame[6 + i];
        frame[6 + i] = to;
      }
      describe(transmit_, 0, no_header, header, flag_next, 1);
      publish(transmit_, 0);
      kick(transmit_);
      while (waiting(transmit_) == 0) {
      }
      ++transmit_.next_used;
      ++count;
    }
    for (uint16_t i = 0; i < pieces; ++i) offer(heads[i]);
    kick(receive_);
  }
}
