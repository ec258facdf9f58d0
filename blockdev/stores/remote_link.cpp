#include "blockdev/stores/remote_link.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>

#include "base/size_text.h"

namespace tidepool::blockdev {

namespace {

constexpr std::chrono::seconds patience{30};

constexpr std::size_t zero_block_size = 256 * 1024;
alignas(4096) std::byte zero_bytes[zero_block_size];

}  // namespace

std::span<std::byte> zero_block() { return zero_bytes; }

std::string unfitness(const RemoteDisk& before, const RemoteDisk& now) {
  if (now.size != before.size) {
    return fmt::format("its size is {}, it was {}", format_size_exactly(now.size),
                       format_size_exactly(before.size));
  }
  if (now.least_block > before.least_block || now.most_bytes < before.most_bytes)
    return "its limits for a request are narrower";
  if (now.read_only && !before.read_only) return "it is read-only now";
  if (before.read_only) return "";
  const auto lost = [](bool then, bool still) { return then && !still; };
  if (lost(before.can_flush, now.can_flush)) return "it cannot flush any more";
  if (lost(before.can_fua, now.can_fua)) return "it cannot write through any more";
  if (lost(before.can_zero, now.can_zero)) return "it cannot write zeros any more";
  if (lost(before.multi_conn, now.multi_conn)) return "it allows one connection only now";
  return "";
}

void watch_peer(int socket, std::chrono::milliseconds unacknowledged) {
  int domain = 0;
  socklen_t length = sizeof domain;
  if (::getsockopt(socket, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0) return;
  if (domain != AF_INET && domain != AF_INET6) return;
  const auto set = [socket](int level, int option, int value) {
    ::setsockopt(socket, level, option, &value, sizeof value);
  };
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 10);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 5);
  set(IPPROTO_TCP, TCP_KEEPCNT, 4);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(unacknowledged.count()));
  set(IPPROTO_TCP, TCP_NODELAY, 1);
}

// The kernel asks again after a second, then after ever longer pauses.
void connect_soon(int socket) {
  const int asked_again = 1;
  ::setsockopt(socket, IPPROTO_TCP, TCP_SYNCNT, &asked_again, sizeof asked_again);
}

Result<> RemoteLink::step(int stop, Clock::time_point deadline) {
  const short wanted = awaited();
  std::array<pollfd, 2> fds{};
  fds[0] = {.fd = descriptor(), .events = wanted, .revents = 0};
  fds[1] = {.fd = stop, .events = POLLIN, .revents = 0};
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  const int ready = ::poll(fds.data(), fds.size(), static_cast<int>(std::max<long>(left, 0)));
  if (ready < 0 && errno != EINTR) return fail_errno(errno, "cannot wait for '" + uri_ + "'");
  if (ready == 0) return fail_errno(ETIMEDOUT, fmt::format("'{}' does not answer", uri_));
  if (ready < 0) return {};
  if (fds[1].revents != 0)
    return fail(ErrorKind::busy, "cannot wait for '{}': it is being closed", uri_);
  // An end is read like data: whoever reads finds it.
  const bool ended = (fds[0].revents & (POLLHUP | POLLERR)) != 0;
  short events = static_cast<short>(fds[0].revents & (POLLIN | POLLOUT));
  if (ended) events = wanted;
  if (!go_on(events)) {
    auto failed = fail_errno(EIO, "");
    failed.error().message = fmt::format("cannot reach '{}': {}", uri_, failure());
    return failed;
  }
  return {};
}

bool RemoteLink::answers(int stop) {
  if (facts_.size == 0) return !is_dead();
  struct Probe : RemoteAnswer {
    bool done = false;
  } probe;
  probe.answered = [](RemoteAnswer& self) { static_cast<Probe&>(self).done = true; };
  const auto data = std::make_unique<std::byte[]>(facts_.least_block);
  const RemoteCommand small{.op = IoOp::read, .length = facts_.least_block, .data = data.get()};
  const auto deadline = Clock::now() + patience;
  bool going = send(small, probe) == 0;
  while (going && !probe.done) going = !is_dead() && step(stop, deadline).has_value();
  const bool good = probe.done && !is_dead() && !probe.gone;
  if (!good) close();  // it could still write to `data`
  return good;
}

}  // namespace tidepool::blockdev
