// What a server has acknowledged and not yet flushed: kept to be sent again when
// the server comes back without it. Pure: no I/O, no lock.
//
// Entries are in the order of their acknowledgement. A flush drops those that were
// there when it was sent, in time. Replaying the rest in order gives every byte its latest
// content, wherever entries overlap.
//
// A server that could not store what it held says so once, to whoever made it try (a flush, or a
// change that is stable at once: a sync), and forgets it. So what a flush has covered is
// kept until all syncs are answered that were under way then: if one of them failed, it is
// here, and can be sent again.
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
  // A sync is sent now, and has succeeded; `flush`: it covers all that was there then.
  struct Sync {
    std::uint64_t number = 0;  // counts up from 1
    std::uint64_t mark = 0;    // the last entry
  };
  Sync begin_sync();
  void end_sync(const Sync& sync, bool flush);
  bool is_syncing() const { return !under_way_.empty(); }
  // One of those under way has failed, or will not be answered. None of them counts.
  void forget_syncs();
  void clear() { drop(last_); }

  std::uint64_t memory_bytes() const { return memory_; }
  const std::deque<Entry>& entries() const { return entries_; }

 private:
  struct Covered {
    std::uint64_t mark = 0;
    std::uint64_t last_sync = 0;  // that was begun then
  };
  void drop(std::uint64_t mark);

  std::deque<Entry> entries_;
  std::uint64_t last_ = 0;
  std::uint64_t memory_ = 0;
  std::uint64_t last_sync_ = 0;
  std::vector<std::uint64_t> under_way_;  // syncs, oldest first
  std::deque<Covered> covered_;           // and not dropped yet
};

}  // namespace tidepool::blockdev
