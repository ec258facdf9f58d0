#include "scsi/iscsi/socket_names.h"

#include <fmt/format.h>
#include <netdb.h>
#include <sys/socket.h>

namespace tidepool::scsi::iscsi {

namespace {

std::string name_by(int (*get)(int, sockaddr*, socklen_t*), int socket) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  auto* const address = reinterpret_cast<sockaddr*>(&storage);
  char host[NI_MAXHOST], port[NI_MAXSERV];
  if (get(socket, address, &length) != 0 ||
      ::getnameinfo(address, length, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    return "unknown";
  return storage.ss_family == AF_INET6 ? fmt::format("[{}]:{}", host, port)
                                       : fmt::format("{}:{}", host, port);
}

}  // namespace

std::string local_name(int socket) { return name_by(::getsockname, socket); }
std::string peer_name(int socket) { return name_by(::getpeername, socket); }

}  // namespace tidepool::scsi::iscsi
