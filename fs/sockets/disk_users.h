// Who uses a disk beside the pool: files that are open through the kernel's page
// cache or around it, a front end on its socket, a truncation. Pure book-keeping.
//
// The kernel's cache does not see what a front end writes. So the two exclude each
// other: a disk that is open through the cache gets no front end, and while one is
// served the disk is opened for direct I/O only. What the cache kept from before is
// dropped by the first opening through it afterwards. So it is after direct writes: the
// page cache of kernels before Linux 6.6 does not see them either.
#pragma once

#include <map>
#include <mutex>
#include <string>

#include "base/result.h"
#include "fs/pool/pool.h"

namespace tidepool::elasticfs {

class DiskUsers {
 public:
  struct Opening {
    bool cached = false;      // else it must go around the page cache
    bool keep_cache = false;  // what the cache has is what the disk has
  };
  // Each that is `cached` ends with close_cached().
  Opening open(pool::NodeId disk);
  void close_cached(pool::NodeId disk);
  // For writing, around the cache; ends with close_direct().
  void open_direct(pool::NodeId disk);
  void close_direct(pool::NodeId disk);

  // Shrinking wants writes kept away, which the kernel does for its own only. false: a
  // front end is served.
  bool begin_shrink(pool::NodeId disk);
  void end_shrink(pool::NodeId disk);

  // One front end at a time. busy: who is in the way; `name` is the disk's, for the message.
  Result<> attach(pool::NodeId disk, const std::string& name);
  void detach(pool::NodeId disk);

 private:
  struct Users {
    unsigned cached = 0, direct = 0, shrinking = 0;
    bool attached = false;
    bool stale = false;  // the cache may hold what was changed around it since
    bool any() const { return cached != 0 || direct != 0 || shrinking != 0 || attached || stale; }
  };
  void forget_idle(std::map<pool::NodeId, Users>::iterator entry);

  std::mutex mutex_;  // leaf; guards what follows
  std::map<pool::NodeId, Users> disks_;
};

}  // namespace tidepool::elasticfs
