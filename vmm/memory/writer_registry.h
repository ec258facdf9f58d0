// Everyone who writes to guest memory: one list, and one way to learn which pages they
// wrote.
//
// vCPUs, each thread of a device, a process that shares the memory, a device with DMA:
// each is registered for as long as it can write. A checkpoint or a migration tracks
// all of them; one that cannot be tracked says so, by name, before anything is done.
//
// Harvest with the machine quiet and nothing is missed; while it runs, what is written
// meanwhile is in the next harvest.
//
// Any thread, one call at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"
#include "virtio/guest_memory.h"

namespace tidepool::vmm {

// A bit for each page of guest physical addresses.
class DirtyPages {
 public:
  explicit DirtyPages(std::uint64_t memory_end)
      : words_((memory_end / virtio::guest_page + 63) / 64) {}
  std::span<std::uint64_t> words() { return words_; }
  bool contains(std::uint64_t address) const {
    const std::uint64_t page = address / virtio::guest_page;
    return (words_[page / 64] >> (page % 64) & 1) != 0;
  }
  std::uint64_t count() const;
  void clear();

 private:
  std::vector<std::uint64_t> words_;
};

class Writer {
 public:
  virtual ~Writer() = default;
  virtual const std::string& name() const = 0;
  // ErrorKind::unsupported from one that cannot be tracked, with the reason.
  virtual Result<> start_tracking() = 0;
  virtual Result<> harvest(DirtyPages& into) = 0;  // what it wrote since the last time
  virtual void stop_tracking() = 0;
};

class WriterRegistry {
 public:
  void add(std::unique_ptr<Writer> writer);
  // A thread of a device, which outlives the registry's use of it.
  void add(virtio::MemoryWriter& writer);
  // One whose writes cannot be tracked.
  void add_untracked(const std::string& name);
  std::vector<std::string> names() const;

  // All or none.
  Result<> start_tracking();
  Result<> harvest(DirtyPages& into);
  void stop_tracking();

 private:
  mutable std::mutex mutex_;  // guards all below; held while writers are asked
  std::vector<std::unique_ptr<Writer>> writers_;
};

}  // namespace tidepool::vmm
