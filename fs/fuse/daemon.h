// Life as a service: into the background, readiness, the system's limits.
#pragma once

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace tidepool::elasticfs {

// Forks; the parent waits until the child has called ready() or ended, and exits
// 0 or 1 accordingly. Before any thread is started.
class Background {
 public:
  static Result<Background> enter();
  static Background none() { return Background(); }  // stays in the foreground
  // The file system is mounted: lets go of the terminal.
  void ready();

 private:
  UniqueFd parent_;  // a byte on it: it worked
};

// sd_notify(3): tells the service manager, when there is one.
void notify_service_manager(const std::string& state);

// A daemon below other file systems must not wait for memory that only it can
// free: its allocations do no file system I/O, its pages stay, it is killed last.
void prepare_for_low_memory();

// The kernel lets a FUSE file system have a hundredth of the dirty pages. Ours gets a
// twentieth, and writing back begins at half of that, beside the writer: with all of
// them it would begin only when memory is full or at fsync (transport.md). Needs root;
// silent without.
void lift_cache_limits(const std::string& mountpoint);

}  // namespace tidepool::elasticfs
