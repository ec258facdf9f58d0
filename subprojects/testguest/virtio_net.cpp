#include "virtio_net.h"

#include "console.h"
#include "guest.h"

namespace {

constexpr uint32_t feature_mergeable = 1U << 15, feature_mac = 1U << 5;
constexpr uint32_t header = 12, frame_header = 14;
constexpr uint32_t small_buffer = 256, large_buffer = 2048;
constexpr uint8_t type_high = 0x88, type_echo = 0xb5, type_end = 0xb6;

}  // namespace

void NetDriver::start(const VirtioPciDevice& device, bool mergeable) {
  device_ = device;
  const uint32_t wanted = feature_mac | (mergeable ? feature_mergeable : 0);
  require(negotiate(device, wanted) == wanted, "no such feature");
  if (buffers_ == nullptr) buffers_ = take_memory(buffers * large_buffer, 16);
  mergeable_ = mergeable;
  buffer_bytes_ = mergeable ? small_buffer : large_buffer;
  receive_.start(device, 0, false);
  transmit_.start(device, 1, false);
  start_device(device);
  for (uint16_t i = 0; i < buffers; ++i) offer(i);
  receive_.kick();
}

void NetDriver::wait(const VirtioQueue& queue) const {
  while (queue.waiting() == 0) {
    require(!is_broken(device_), "the device says that it is broken");
  }
}

void NetDriver::offer(uint16_t index) {
  receive_.describe(index, address_of(buffer(index)), buffer_bytes_, descriptor_write, 0);
  receive_.publish(index);
}

bool NetDriver::is_for_us(const uint8_t* frame) const {
  for (uint32_t i = 0; i < 6; ++i) {
    if (frame[i] != read_at<uint8_t>(device_.device + i)) return false;
  }
  return true;
}

uint32_t NetDriver::echo() {
  static uint8_t no_header[header];
  uint16_t heads[buffers];
  for (uint32_t count = 0;;) {
    wait(receive_);
    uint16_t pieces = 1;
    uint8_t* first = nullptr;
    for (uint16_t i = 0; i < pieces; ++i) {
      require(receive_.waiting() > 0, "a packet of which a part is missing");
      const VirtioQueue::Used used = receive_.take();
      heads[i] = static_cast<uint16_t>(used.id);
      require(used.id < buffers && used.length <= buffer_bytes_, "a buffer that is none",
              used.length);
      if (i == 0) {
        first = buffer(heads[0]);
        require(used.length >= header + frame_header, "a short packet", used.length);
        // Else the field is there, and DPDK leaves in it what was in the buffer.
        if (mergeable_) pieces = read_at<uint16_t>(address_of(first) + 10);
        require(pieces > 0 && pieces <= buffers, "a packet in so many buffers:", pieces);
      }
      // The same memory goes out again, behind a header of its own.
      const uint32_t skip = i == 0 ? header : 0;
      transmit_.describe(static_cast<uint16_t>(i + 1), address_of(buffer(heads[i])) + skip,
                         used.length - skip, i + 1 < pieces ? descriptor_next : 0,
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
      transmit_.describe(0, address_of(no_header), header, descriptor_next, 1);
      transmit_.publish(0);
      transmit_.kick();
      wait(transmit_);
      transmit_.take();
      ++count;
    }
    for (uint16_t i = 0; i < pieces; ++i) offer(heads[i]);
    receive_.kick();
  }
}
