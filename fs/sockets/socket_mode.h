// Who may connect to a disk's socket: those who may read and write the disk's file.
//
// Connecting is writing to the socket file. The directories of the sockets belong to the
// daemon and let everybody through, because an owner who could rename in them could lead
// the daemon astray; so the socket's own mode says what the VM's directory says, too.
//
// Limit: the disk's owner and group only; whom modes would let in as "others" is not let in.
#pragma once

#include "fs/pool/pool.h"

namespace tidepool::elasticfs {

inline std::uint32_t socket_mode(const pool::Attributes& disk, const pool::Attributes& vm) {
  constexpr std::uint32_t owner = 0600, group = 0060;
  // An owner who is not the directory's comes in as its group or as another: which, is not
  // known here.
  const std::uint32_t needed = disk.uid == vm.uid ? 0100U : 0011U;
  std::uint32_t mode = 0;
  if ((disk.mode & owner) == owner && (vm.mode & needed) == needed) mode |= owner;
  const bool group_passes = disk.gid == vm.gid && (vm.mode & 0010) != 0;
  if ((disk.mode & group) == group && group_passes) mode |= group;
  return mode;
}

}  // namespace tidepool::elasticfs
