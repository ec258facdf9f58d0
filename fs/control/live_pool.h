// Who serves a pool: the daemon that answers for it, and the file once nobody does.
#pragma once

#include <sys/stat.h>

#include <memory>
#include <optional>
#include <string>

#include "fs/control/pool_control.h"

namespace tidepool::control {

struct LivePool {
  std::unique_ptr<PoolControl> control;
  std::string mount_point;
};

// The daemon that serves the pool; not_found when none answers. `file`: of this very
// file, as a copy of a pool has the same UUID.
Result<LivePool> find_daemon(const std::string& uuid, const struct stat* file);
// Nothing when no daemon answers for it, or it holds no readable superblock.
Result<std::optional<LivePool>> find_daemon_of_file(const std::string& path,
                                                    const struct stat& file);

// Opens a pool's file or device. umount(8) returns while the daemon still closes the
// pool: that is waited for, a few seconds at most. One that is mounted and answers is
// refused soon.
Result<std::shared_ptr<blockdev::FileStore>> open_when_free(
    const std::string& path, const blockdev::FileStoreOptions& options);

}  // namespace tidepool::control
