// What a device has taken from one split queue and not yet given back, noted in memory
// that outlives the process (the layout is vhost-user's, "Inflight I/O tracking"): who
// serves the queue after it finishes what it left.
//
// A note is made before a chain's request begins, and taken back after the driver can see
// the answer. In between a crash may leave either both or neither: hence the used index
// beside the notes, which tells how many answers were out.
//
// The memory is shared with another process: numbers are checked before they are used.
// Nothing is allocated while the queue is served.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "virtio/split_queue.h"

namespace tidepool::virtio {

class InflightNotes {
 public:
  // For a queue of so many entries.
  static constexpr std::size_t bytes_for(std::uint16_t entries) {
    return header_bytes + std::size_t{entries} * entry_bytes;
  }
  // memory: at least bytes_for(entries), aligned to 8, zeros at first; it outlives the notes.
  InflightNotes(std::span<std::byte> memory, std::uint16_t entries)
      : memory_(memory), entries_(entries) {}

  // What was left, in the order in which it was taken; `used` is the ring's used index.
  // Notes of another version, or for another number of entries, are refused: what they
  // mean is not known, and to begin without them would lose what they tell.
  Result<std::vector<std::uint16_t>> recover(std::uint16_t used);

  void took(std::uint16_t head);
  void put_back(std::uint16_t head) { set_inflight(head, 0); }
  // Around the moment at which the driver sees the answers.
  void giving(std::span<const UsedChain> chains);
  void gave(std::span<const UsedChain> chains, std::uint16_t used);

 private:
  static constexpr std::size_t header_bytes = 16, entry_bytes = 16;
  void set_inflight(std::uint16_t head, std::uint8_t value);
  std::uint16_t load16_at(std::size_t offset) const;
  void store16_at(std::size_t offset, std::uint16_t value);

  const std::span<std::byte> memory_;
  const std::uint16_t entries_;
  std::uint64_t next_ = 1;  // the counter of the next chain
};

}  // namespace tidepool::virtio
