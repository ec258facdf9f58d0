// A directory on an NFS server, by libnfs's calls on files: versions 3 and 4.
//
// Nothing is cached, and nothing is sent again behind the caller's back. Each call has a
// connection of its own that ends with it, which costs some ten round trips: for what happens
// seldom. Who calls often keeps the connection (`keep`) until a call on it fails. Writes are stable
// ones. One thread at a time.
//
// Limits: names are looked up in the DNS without a limit of ours in time. Servers in their
// grace period refuse changes in version 4.
#pragma once

#include <chrono>
#include <memory>

#include "blockdev/directory.h"
#include "blockdev/stores/nfs_uri.h"

namespace tidepool::blockdev {

struct NfsPatience {
  std::chrono::milliseconds most{10'000};  // a call takes
  int stop = -1;  // a descriptor: calls end with ErrorKind::busy once it is readable
  // The connection is for the next call, too: which fails if the server has gone since.
  bool keep = false;
};

// That which `where`'s file is in; or, if `below` is not empty, the one of that name in it.
std::unique_ptr<Directory> nfs_directory(const NfsLocation& where, const std::string& below,
                                         const NfsPatience& patience);

}  // namespace tidepool::blockdev
