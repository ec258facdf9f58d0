// Disks that may have dirty pages in the kernel's cache, and how to get them out.
//
// The kernel answers SEEK_HOLE and SEEK_DATA by asking the file system, without
// writing its dirty pages back first: they would look like holes. So while a disk
// is open for cached writing, a thread of its own makes the kernel write them
// before the question is answered. (Closing and unmapping write them back anyway.)
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "fs/pool/pool.h"

namespace tidepool::elasticfs {

class CachedWriters {
 public:
  CachedWriters(pool::Pool& pool, std::string mountpoint)
      : pool_(pool), mountpoint_(std::move(mountpoint)) {}
  ~CachedWriters();

  void add(pool::NodeId disk);
  void remove(pool::NodeId disk);
  bool contains(pool::NodeId disk);
  // Calls `done` on the write-back thread; false: it could not be done (the disk
  // has no name any more), so its cache may hold anything.
  void write_back(pool::NodeId disk, std::function<void(bool written)> done);

 private:
  struct Job {
    pool::NodeId disk;
    std::function<void(bool)> done;
  };
  void run();
  bool write_back_now(pool::NodeId disk) const;

  pool::Pool& pool_;
  const std::string mountpoint_;
  std::mutex mutex_;  // leaf; guards what follows
  std::map<pool::NodeId, unsigned> open_;
  std::vector<Job> jobs_;
  bool stopping_ = false;
  std::condition_variable wakeup_;
  std::thread thread_;  // started by the first job
};

}  // namespace tidepool::elasticfs
