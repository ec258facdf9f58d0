#include "blockdev/attach/connection.h"

#include <fcntl.h>
#include <libnbd.h>
#include <linux/nbd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cerrno>
#include <memory>

namespace tidepool::blockdev::attach {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t flag_rotational = 1 << 4;  // of the protocol; linux/nbd.h has no name

struct Close {
  void operator()(nbd_handle* handle) const { nbd_close(handle); }
};
using Handle = std::unique_ptr<nbd_handle, Close>;

std::unexpected<Error> refused(const std::string& uri) {
  const int code = nbd_get_errno();
  const char* text = nbd_get_error();
  if (text == nullptr) text = "unknown error";
  return std::unexpected(Error{ErrorKind::io, code != 0 ? code : EIO,
                               fmt::format("cannot connect to {}: {}", uri, text)});
}

Result<> shake_hands(nbd_handle* handle, const std::string& uri, std::chrono::seconds deadline) {
  if (nbd_set_request_structured_replies(handle, false) == -1 ||
      nbd_set_uri_allow_tls(handle, LIBNBD_TLS_DISABLE) == -1 ||
      nbd_set_uri_allow_local_file(handle, true) == -1 ||
      nbd_aio_connect_uri(handle, uri.c_str()) == -1)
    return refused(uri);
  const auto end = Clock::now() + deadline;
  while (nbd_aio_is_ready(handle) == 0) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now());
    if (left.count() <= 0) {
      return fail(ErrorKind::io, "cannot connect to {}: no answer within {} seconds", uri,
                  deadline.count());
    }
    if (nbd_poll(handle, static_cast<int>(left.count())) == -1) return refused(uri);
    if (nbd_aio_is_dead(handle) == 1 || nbd_aio_is_closed(handle) == 1) return refused(uri);
  }
  return {};
}

// Wins over the hours of the system's default: a peer that is gone without a word
// is noticed within a minute, also while nothing is asked of it.
void keep_alive(int fd) {
  const auto set = [fd](int level, int name, int value) {
    ::setsockopt(fd, level, name, &value, sizeof value);
  };
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 20);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 10);
  set(IPPROTO_TCP, TCP_KEEPCNT, 4);
}

}  // namespace

std::uint64_t Export::flags() const {
  return NBD_FLAG_HAS_FLAGS | (read_only ? NBD_FLAG_READ_ONLY : 0) |
         (can_flush ? NBD_FLAG_SEND_FLUSH : 0) | (can_fua ? NBD_FLAG_SEND_FUA : 0) |
         (can_trim ? NBD_FLAG_SEND_TRIM : 0) | (rotational ? flag_rotational : 0) |
         (multi_conn ? NBD_FLAG_CAN_MULTI_CONN : 0);
}

Result<Connection> Connection::open(const std::string& uri, std::chrono::seconds deadline) {
  const Handle handle(nbd_create());
  if (!handle) return refused(uri);
  if (auto done = shake_hands(handle.get(), uri, deadline); !done)
    return std::unexpected(done.error());
  const std::int64_t size = nbd_get_size(handle.get());
  const std::int64_t minimum = nbd_get_block_size(handle.get(), LIBNBD_SIZE_MINIMUM);
  if (size < 0 || minimum < 0) return refused(uri);
  const Export offered{.size = static_cast<std::uint64_t>(size),
                       .block_minimum = static_cast<std::uint32_t>(minimum),
                       .read_only = nbd_is_read_only(handle.get()) == 1,
                       .can_flush = nbd_can_flush(handle.get()) == 1,
                       .can_fua = nbd_can_fua(handle.get()) == 1,
                       .can_trim = nbd_can_trim(handle.get()) == 1,
                       .rotational = nbd_is_rotational(handle.get()) == 1,
                       .multi_conn = nbd_can_multi_conn(handle.get()) == 1};
  // Closing the handle only closes its own descriptor: the server is told nothing.
  UniqueFd fd(::fcntl(nbd_aio_get_fd(handle.get()), F_DUPFD_CLOEXEC, 3));
  if (!fd) return fail_errno(errno, "cannot keep the connection to " + uri);
  keep_alive(fd.get());
  return Connection(std::move(fd), offered);
}

bool Connection::is_dead() const {
  pollfd entry{.fd = fd_.get(), .events = POLLRDHUP, .revents = 0};
  return ::poll(&entry, 1, 0) > 0;
}

bool Connection::is_adopted() const {
  timeval timeout{};
  socklen_t length = sizeof timeout;
  return ::getsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &timeout, &length) == 0 &&
         (timeout.tv_sec != 0 || timeout.tv_usec != 0);
}

Result<std::vector<Connection>> open_connections(const std::string& uri, unsigned wanted,
                                                 std::chrono::seconds deadline) {
  std::vector<Connection> connections;
  do {
    auto connection = Connection::open(uri, deadline);
    if (!connection) return std::unexpected(connection.error());
    if (!connections.empty() && connection->offered() != connections.front().offered()) {
      return fail(ErrorKind::io, "{} offers another disk on each connection: attach with one",
                  uri);
    }
    connections.push_back(std::move(*connection));
  } while (connections.size() < wanted && connections.front().offered().multi_conn);
  return connections;
}

}  // namespace tidepool::blockdev::attach
