// Where a file on an NFS server is, as libnfs's URIs say it:
//
//   nfs://SERVER/EXPORT/PATH/FILE[?OPTION=VALUE[&OPTION=VALUE...]]
//
// options: version=3|4 (default 3), nfsport=, mountport=, uid=, gid=. Others of libnfs
// (readahead, autoreconnect, ...) would change nothing here and are refused, so that
// nobody relies on them. Nothing is percent-decoded, as in libnfs. An IPv6 address stands
// in brackets. Pure: no I/O.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace tidepool::blockdev {

bool is_nfs_uri(std::string_view text);

struct NfsLocation {
  std::string server;     // name or address
  std::string directory;  // begins with '/', does not end in one, but for "/" itself
  std::string file;       // one name
  unsigned version = 3;   // 3 or 4
  int nfs_port = 0;       // 0: ask the server's portmapper (version 3), 2049 (version 4)
  int mount_port = 0;     // 0: ask the server's portmapper
  int uid = -1, gid = -1;  // -1: the process's
  bool operator==(const NfsLocation&) const = default;
};

Result<NfsLocation> parse_nfs_uri(std::string_view uri);

}  // namespace tidepool::blockdev
