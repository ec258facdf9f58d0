// The memory of a guest, as its devices see it: regions of guest physical addresses
// that are mapped here, and one writer's way into them.
//
// All addresses come from the guest: nothing outside a region is ever reached. The
// guest may change any byte at any time; who needs a value twice copies it first.
//
// A MemoryWriter is the access of one device. What it writes it marks, while its
// writes are tracked, so that a copy of the memory can be kept up to date.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "virtio/dirty_bitmap.h"

namespace tidepool::virtio {

struct GuestRegion {
  std::uint64_t guest = 0;   // physical address
  std::uint64_t length = 0;  // bytes
  std::byte* host = nullptr;
  // The memory file that it is mapped from, for who shares it with another process; -1: none.
  int file = -1;
  std::uint64_t file_offset = 0;
};

// Constant after construction. Whoever made the mappings keeps them as long.
class GuestMemory {
 public:
  // Refuses regions that are empty, overlap or wrap around.
  static Result<std::shared_ptr<const GuestMemory>> create(std::vector<GuestRegion> regions);

  // Where [address, address + length) is, or null unless one region holds all of it.
  // length 0 is refused, too.
  std::byte* at(std::uint64_t address, std::uint64_t length) const;
  // The same for as much of it as one region holds: `length` says how much that is.
  std::byte* longest_at(std::uint64_t address, std::uint64_t& length) const;
  // The guest's address of a place that at() gave.
  std::uint64_t address_of(const std::byte* host) const;

  const std::vector<GuestRegion>& regions() const { return regions_; }
  std::uint64_t end() const { return regions_.back().guest + regions_.back().length; }

 private:
  explicit GuestMemory(std::vector<GuestRegion> regions) : regions_(std::move(regions)) {}
  const std::vector<GuestRegion> regions_;  // sorted by guest address
};

class MemoryWriter {
 public:
  explicit MemoryWriter(std::string name) : name_(std::move(name)) {}

  // Before all else, and again when the memory changes, while nobody writes.
  void connect(std::shared_ptr<const GuestMemory> memory);
  const GuestMemory& memory() const { return *memory_; }
  const std::string& name() const { return name_; }  // for messages

  // After each write. Any thread.
  void wrote(std::uint64_t address, std::uint64_t length) {
    if (DirtyBitmap* const marks = marks_.load(std::memory_order_acquire)) {
      marks->mark(address, length);
    }
  }
  void wrote(const std::byte* host, std::uint64_t length) {
    if (marks_.load(std::memory_order_relaxed) != nullptr) wrote(memory_->address_of(host), length);
  }

  // By one thread at a time. What is in flight when tracking starts is marked when it
  // ends.
  void start_tracking();
  void take_marks(std::span<std::uint64_t> into);  // a bit for each page up to memory().end()
  void stop_tracking() { marks_.store(nullptr); }

 private:
  const std::string name_;
  std::shared_ptr<const GuestMemory> memory_;
  std::unique_ptr<DirtyBitmap> bitmap_;  // kept once made: a writer may hold it still
  std::atomic<DirtyBitmap*> marks_{nullptr};
};

// Stores before it are seen by the other side before loads after it look. The compiler's
// builtin, because ThreadSanitizer refuses the language's own fence.
inline void full_barrier() { __sync_synchronize(); }

}  // namespace tidepool::virtio
