// From what a command line calls a pool to the pool itself, live or not.
//
// A pool is named by its file or device, or by any path on its mount. A live
// pool is asked through its daemon's control socket, an offline one is opened
// here: shared with other readers to read, alone to change.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "fs/control/pool_control.h"

namespace tidepool::tools {

enum class Access { read, change };

class OpenPool {
 public:
  control::PoolControl& control() { return *control_; }
  // The mount point of a live pool; nothing for one that was opened here.
  const std::optional<std::string>& mount_point() const { return mount_point_; }
  // The named path below the mount point ("vm1/scratch.img"); empty for a pool file.
  const std::string& inside() const { return inside_; }

 private:
  friend Result<OpenPool> open_pool(const std::string& name, Access access);
  friend class PoolFinder;

  // Offline only; destroyed bottom up.
  std::shared_ptr<blockdev::FileStore> store_;
  std::unique_ptr<pool::Pool> pool_;
  std::unique_ptr<control::PoolControl> control_;
  std::optional<std::string> mount_point_;
  std::string inside_;
};

Result<OpenPool> open_pool(const std::string& name, Access access);

// The pool's file or device, opened and locked, for work on its raw bytes.
// A live pool is ErrorKind::busy, and the message says where it is mounted.
Result<std::shared_ptr<blockdev::FileStore>> open_offline_store(const std::string& name,
                                                                Access access);

}  // namespace tidepool::tools
