#include "vmm/tools/console_client.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "vmm/control/machine_service.h"
#include "vmm/tools/terminal.h"

namespace tidepool::tools {

namespace {

Result<UniqueFd> connect(const std::string& machine) {
  if (auto good = vmm::check_machine_name(machine); !good) return std::unexpected(good.error());
  const std::string path = vmm::console_path(machine);
  sockaddr_un address{.sun_family = AF_UNIX};
  if (path.size() >= sizeof address.sun_path) {
    return fail(ErrorKind::invalid_argument, "'{}' is too long for a socket's path", path);
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd connection(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connection && ::connect(connection.get(), reinterpret_cast<const sockaddr*>(&address),
                              sizeof address) == 0) {
    return connection;
  }
  if (errno == ENOENT || errno == ECONNREFUSED) {
    return fail(ErrorKind::not_found, "no machine with the name '{}' runs", machine);
  }
  return fail_errno(errno, fmt::format("cannot attach to the machine '{}'", machine));
}

void type(int connection, std::string_view keys) {
  while (!keys.empty()) {
    const ssize_t sent = ::send(connection, keys.data(), keys.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return;  // its end is seen where it is read
    keys.remove_prefix(static_cast<std::size_t>(sent));
  }
}

}  // namespace

Result<> attach_console(const std::string& machine) {
  const auto connection = connect(machine);
  if (!connection) return std::unexpected(connection.error());
  const UniqueFd detach(::eventfd(0, EFD_CLOEXEC));
  if (!detach) return fail_errno(errno, "cannot create an eventfd");
  const Keyboard keyboard([&](std::string_view keys) { type(connection->get(), keys); },
                          [&] {
                            const std::uint64_t one = 1;
                            [[maybe_unused]] const auto written =
                                ::write(detach.get(), &one, sizeof one);
                          });
  std::array<char, 4096> printed;
  for (;;) {
    pollfd events[] = {{detach.get(), POLLIN, 0}, {connection->get(), POLLIN, 0}};
    if (::poll(events, 2, -1) < 0) {
      if (errno == EINTR) continue;
      return fail_errno(errno, "cannot wait for the console");
    }
    if (events[0].revents != 0) return {};
    const ssize_t got = ::read(connection->get(), printed.data(), printed.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return {};
    print({printed.data(), static_cast<std::size_t>(got)});
  }
}

}  // namespace tidepool::tools
