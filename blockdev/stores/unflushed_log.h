// What a server has acknowledged and not yet flushed: kept to be sent again when
// the server comes back without it. Pure: no I/O, no lock.
//
// Entries are in the order of their acknowledgement. A flush drops those that were
// there when it was sent. Replaying the rest in order gives every byte its latest
// content, wherever entries overlap.
//
// Limit: writes that overlap while both are in flight have no order, on a server
// as on any disk; here they have that of their acknowledgements.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "blockdev/block_store.h"

namespace tidepool::blockdev {

class UnflushedLog {
 public:
  struct Entry {
    std::uint64_t number = 0;  // counts up from 1
    IoOp op = IoOp::write;     // write, zero, discard
    std::uint64_t offset = 0, length = 0;  // bytes
    std::vector<std::byte> data;           // a write's

    bool overlaps(const Entry& other) const {
      return offset < other.offset + other.length && other.offset < offset + length;
    }
  };
  static constexpr std::uint64_t entry_cost = 128;  // bytes, beside the data

  // `data` is empty for zero and discard.
  void add(IoOp op, std::uint64_t offset, std::uint64_t length, std::vector<std::byte> data);
  // The mark of a flush that is sent now.
  std::uint64_t mark() const { return last_; }
  // A flush has succeeded that was sent at `mark`.
  void flushed(std::uint64_t mark);
  void clear() { flushed(last_); }

  std::uint64_t memory_bytes() const { return memory_; }
  const std::deque<Entry>& entries() const { return entries_; }

 private:
  std::deque<Entry> entries_;
  std::uint64_t last_ = 0;
  std::uint64_t memory_ = 0;
};

}  // namespace tidepool::blockdev
