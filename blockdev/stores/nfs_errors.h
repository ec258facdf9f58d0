// What an NFS server's refusal means for a disk: one table for both versions, whose
// numbers agree where both have one.
#pragma once

#include <cstdint>
#include <string>

namespace tidepool::blockdev {

struct NfsError {
  enum class Remedy : std::uint8_t {
    none,       // the caller is told
    later,      // the same again after a while: the server says so
    reconnect,  // the same again on a new connection
  };
  std::uint32_t status = 0;  // nfsstat3 and nfsstat4
  int error = 0;             // errno
  Remedy remedy = Remedy::none;
  const char* text = "";
};

// Of a status that is not 0; what the table lacks is EIO.
NfsError nfs_error(std::uint32_t status);

}  // namespace tidepool::blockdev
