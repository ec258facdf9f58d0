// What the kernel holds open, by the numbers it was given. It may end without
// releasing them: a daemon told to stop while files are open frees them itself.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "fs/pool/pool.h"

namespace tidepool::elasticfs {

// A disk held open: what fuse_file_info::fh points to.
struct OpenDisk {
  pool::NodeId id = 0;
  pool::Disk* disk = nullptr;
  bool cached = false;         // open through the kernel's page cache
  bool dirties_cache = false;  // and for writing
  bool writes_direct = false;  // for writing, around it
  bool shrinks = false;        // held to make it smaller
};

// A directory's: its entries when it was last read from the beginning.
struct Listing {
  pool::NodeId id = 0, parent = 0;
  std::vector<pool::DirectoryEntry> entries;
};

// Owns what is open of one kind. Any thread.
template <typename Opened>
class OpenFiles {
 public:
  // The number by which the kernel will name it: its address.
  std::uint64_t keep(std::unique_ptr<Opened> opened) {
    const auto number = reinterpret_cast<std::uintptr_t>(opened.get());
    std::scoped_lock lock(mutex_);
    open_.emplace(number, std::move(opened));
    return number;
  }
  // Null: nothing of that number is open.
  std::unique_ptr<Opened> take(std::uint64_t number) {
    std::scoped_lock lock(mutex_);
    auto taken = open_.extract(number);
    return taken.empty() ? nullptr : std::move(taken.mapped());
  }
  // All that is open still, to be closed.
  std::unordered_map<std::uint64_t, std::unique_ptr<Opened>> take_all() {
    std::scoped_lock lock(mutex_);
    return std::exchange(open_, {});
  }

 private:
  std::mutex mutex_;  // leaf
  std::unordered_map<std::uint64_t, std::unique_ptr<Opened>> open_;
};

}  // namespace tidepool::elasticfs
