// Puts a packet into a driver's receive buffers (Virtual I/O Device 1.2, section
// 5.1.6.4): into one, or with mergeable buffers into as many as it needs, which the
// driver is then given all at once. Pure: the queue is whatever has its three calls.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <vector>

#include "base/byte_order.h"
#include "virtio/packet_port.h"
#include "virtio/split_queue.h"

namespace tidepool::virtio {

enum class Placed {
  yes,
  waits,    // there are too few buffers
  too_big,  // for a driver without mergeable buffers
  broken,   // a buffer without room for the header
};

class PacketPlacer {
 public:
  // Queue has take(Chain&), put_back(chains) and give_all(chains). What was not placed
  // leaves the queue's buffers to the next one.
  template <class Queue>
  Placed place(Queue& queue, MemoryWriter& writer, std::span<const std::byte> packet,
               bool mergeable) {
    used_.clear();
    while (!packet.empty()) {
      Chain& chain = used_.empty() ? first_ : next_;
      if (!queue.take(chain)) return leave(queue, Placed::waits);
      const auto count =
          static_cast<std::size_t>(std::min<std::uint64_t>(packet.size(), chain.writable_bytes));
      used_.push_back({chain.head, static_cast<std::uint32_t>(count)});
      if (count == 0 || (used_.size() == 1 && count < packet_header_bytes)) {
        return leave(queue, Placed::broken);
      }
      if (!mergeable && count < packet.size()) return leave(queue, Placed::too_big);
      put(writer, chain, 0, packet.first(count));
      packet = packet.subspan(count);
    }
    std::array<std::byte, 2> buffers;
    store_le16(buffers.data(), static_cast<std::uint16_t>(used_.size()));
    put(writer, first_, buffers_offset, buffers);
    queue.give_all(used_);
    return Placed::yes;
  }

 private:
  static constexpr std::uint64_t buffers_offset = 10;  // of the header's count of buffers

  template <class Queue>
  Placed leave(Queue& queue, Placed why) {
    queue.put_back(used_);
    return why;
  }

  static void put(MemoryWriter& writer, const Chain& into, std::uint64_t skip,
                  std::span<const std::byte> bytes) {
    for (unsigned i = into.readable; i < into.readable + into.writable && !bytes.empty(); ++i) {
      const iovec& piece = into.segments[i];
      if (skip >= piece.iov_len) {
        skip -= piece.iov_len;
        continue;
      }
      std::byte* const there = static_cast<std::byte*>(piece.iov_base) + skip;
      const std::size_t count = std::min<std::size_t>(bytes.size(), piece.iov_len - skip);
      std::memcpy(there, bytes.data(), count);
      writer.wrote(there, count);
      bytes = bytes.subspan(count);
      skip = 0;
    }
  }

  Chain first_, next_;
  std::vector<UsedChain> used_;
};

}  // namespace tidepool::virtio
