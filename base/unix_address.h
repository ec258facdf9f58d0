// The address of a Unix socket that has a path.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <string>

#include "base/result.h"

namespace tidepool {

// A path that does not fit is an error, which says how long one may be.
inline Result<sockaddr_un> unix_address(const std::string& path) {
  sockaddr_un address{.sun_family = AF_UNIX};
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return fail(ErrorKind::invalid_argument,
                "socket '{}': a socket's path has 1 to {} bytes; choose a shorter directory", path,
                sizeof address.sun_path - 1);
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

}  // namespace tidepool
