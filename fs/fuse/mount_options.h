// What `-o` says: pure parsing.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace tidepool::elasticfs {

struct MountOptions {
  std::string pool;        // absolute path
  std::string mountpoint;  // absolute path
  bool read_only = false;
  bool foreground = false;
  unsigned loops = 1;    // threads that serve requests, 1..64
  unsigned spin_us = 0;  // 0..1000
  enum class IoUring : std::uint8_t { automatic, on, off } io_uring = IoUring::automatic;
  std::string vhost_user_directory;  // for the disks' sockets; empty: none
  std::vector<std::string> kernel;  // passed on to mount(2): allow_other, noatime, ...
};

// Adds the comma-separated options of one -o. Options of mount(8) and fstab that
// mean nothing to a file system (noauto, _netdev, x-*, ...) are accepted.
Result<> parse_mount_options(std::string_view text, MountOptions& options);

}  // namespace tidepool::elasticfs
