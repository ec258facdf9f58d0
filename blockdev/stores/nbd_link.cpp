#include "blockdev/stores/nbd_link.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "base/checked.h"
#include "base/size_text.h"

namespace tidepool::blockdev {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds patience{30};

// What the protocol has clients assume where the server does not say.
constexpr std::uint32_t usual_block = 512, usual_most = 32U << 20;
constexpr std::uint64_t most_zeroed = std::uint64_t{1} << 30;  // by one command, without data

constexpr std::size_t zero_block_size = 256 * 1024;
alignas(4096) std::byte zero_block[zero_block_size];  // never written: costs no memory

std::unexpected<Error> link_failure(const std::string& uri, const char* what) {
  const int error = nbd_get_errno();
  auto failed = fail_errno(error != 0 ? error : EIO, "");
  failed.error().message = fmt::format("{} '{}': {}", what, uri, NbdLink::failure());
  return failed;
}

// A host that vanished without a word is noticed, too.
void watch_peer(int fd) {
  int domain = 0;
  socklen_t length = sizeof domain;
  if (::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0) return;
  if (domain != AF_INET && domain != AF_INET6) return;
  const auto set = [fd](int level, int option, int value) {
    ::setsockopt(fd, level, option, &value, sizeof value);
  };
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 10);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 5);
  set(IPPROTO_TCP, TCP_KEEPCNT, 4);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, 30'000);
}

}  // namespace

bool is_farewell(int error) { return error == ESHUTDOWN; }

std::string unfitness(const NbdExport& before, const NbdExport& now) {
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

std::string NbdLink::failure() {
  const char* const text = nbd_get_error();
  std::string out = text != nullptr ? text : "the server closed the connection";
  // The library's function in front says nothing to the reader.
  if (out.starts_with("nbd_")) {
    if (const auto colon = out.find(": "); colon != std::string::npos) out.erase(0, colon + 2);
  }
  return out;
}

Result<std::unique_ptr<NbdLink>> NbdLink::connect(const std::string& uri, int stop) {
  std::unique_ptr<NbdLink> link(new NbdLink(uri));
  if (!link->handle_) return link_failure(uri, "cannot connect to");
  if (auto r = link->shake_hands(stop); !r) return std::unexpected(r.error());
  if (auto r = link->learn(); !r) return std::unexpected(r.error());
  watch_peer(nbd_aio_get_fd(link->handle()));
  return link;
}

NbdLink::~NbdLink() {
  if (!handle_) return;
  if (nbd_aio_is_ready(handle()) == 1) nbd_aio_disconnect(handle(), 0);
  // A poll that is under way holds the socket open: this ends both.
  if (const int fd = nbd_aio_get_fd(handle()); fd >= 0) ::shutdown(fd, SHUT_RDWR);
}

Result<> NbdLink::shake_hands(int stop) {
  nbd_handle* const h = handle();
  if (nbd_add_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0 ||
      nbd_set_uri_allow_local_file(h, true) != 0 ||  // keys for TLS
      nbd_set_pread_initialize(h, false) != 0 ||     // what is not read is not shown
      nbd_aio_connect_uri(h, uri_.c_str()) != 0) {
    return link_failure(uri_, "cannot connect to");
  }
  const auto deadline = Clock::now() + patience;
  while (nbd_aio_is_ready(h) != 1) {
    if (is_dead()) return link_failure(uri_, "cannot connect to");
    if (auto r = step(stop, deadline); !r) return r;
  }
  return {};
}

Result<> NbdLink::learn() {
  nbd_handle* const h = handle();
  const std::int64_t size = nbd_get_size(h);
  if (size < 0) return link_failure(uri_, "cannot read the size of");
  const auto ask = [h](int (*question)(nbd_handle*)) { return question(h) == 1; };
  const auto limit = [h](int kind) {
    return static_cast<std::uint64_t>(std::max<std::int64_t>(nbd_get_block_size(h, kind), 0));
  };
  facts_.size = static_cast<std::uint64_t>(size);
  std::uint64_t least = limit(LIBNBD_SIZE_MINIMUM);
  if (least == 0) least = facts_.size % usual_block == 0 ? usual_block : 1;
  if (!is_power_of_two(least) || least > zero_block_size) {
    return fail(ErrorKind::unsupported, "cannot use '{}': it wants blocks of {} bytes", uri_, least);
  }
  facts_.least_block = static_cast<std::uint32_t>(least);
  facts_.size = round_down(facts_.size, least);
  std::uint64_t most = limit(LIBNBD_SIZE_MAXIMUM);
  most = most == 0 ? usual_most : std::clamp<std::uint64_t>(most, least, usual_most);
  facts_.most_bytes = static_cast<std::uint32_t>(round_down(most, least));
  facts_.read_only = nbd_is_read_only(h) != 0;
  facts_.can_flush = ask(nbd_can_flush);
  facts_.can_fua = ask(nbd_can_fua);
  facts_.can_trim = ask(nbd_can_trim);
  facts_.can_zero = ask(nbd_can_zero);
  facts_.multi_conn = ask(nbd_can_multi_conn);
  facts_.has_status = nbd_can_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1;
  return {};
}

bool NbdLink::is_dead() {
  return !handle_ || nbd_aio_is_dead(handle()) == 1 || nbd_aio_is_closed(handle()) == 1;
}

std::uint64_t NbdLink::most_of(IoOp op) const {
  if (op == IoOp::read || op == IoOp::write) return facts_.most_bytes;
  if (facts_.can_zero) return most_zeroed;
  return std::max<std::uint64_t>(
      facts_.least_block,
      round_down(std::min<std::uint64_t>(facts_.most_bytes, zero_block_size),
                 std::uint64_t{facts_.least_block}));
}

int NbdLink::send(const NbdCommand& c, nbd_completion_callback answered) {
  nbd_handle* const h = handle();
  const std::uint32_t fua = c.force_unit_access ? LIBNBD_CMD_FLAG_FUA : 0;
  std::int64_t cookie = -1;
  switch (c.op) {
    case IoOp::read:
      cookie = nbd_aio_pread(h, c.data, c.length, c.offset, answered, 0);
      break;
    case IoOp::write:
      cookie = nbd_aio_pwrite(h, c.data, c.length, c.offset, answered, fua);
      break;
    case IoOp::flush:
      cookie = nbd_aio_flush(h, answered, 0);
      break;
    case IoOp::zero:
    case IoOp::discard:
      if (facts_.can_zero) {
        // A trim would promise nothing; this reads as zeros, and may be a hole.
        const std::uint32_t keep = c.op == IoOp::zero ? LIBNBD_CMD_FLAG_NO_HOLE : 0;
        cookie = nbd_aio_zero(h, c.length, c.offset, answered, fua | keep);
      } else {
        cookie = nbd_aio_pwrite(h, zero_block, c.length, c.offset, answered, fua);
      }
      break;
    case IoOp::allocate:
      return EOPNOTSUPP;
  }
  if (cookie >= 0) return 0;
  const int error = nbd_get_errno();
  return error != 0 ? error : EIO;
}

Result<> NbdLink::step(int stop, Clock::time_point deadline) {
  const unsigned direction = nbd_aio_get_direction(handle());
  std::array<pollfd, 2> fds{};
  fds[0].fd = nbd_aio_get_fd(handle());
  if ((direction & LIBNBD_AIO_DIRECTION_READ) != 0) fds[0].events |= POLLIN;
  if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0) fds[0].events |= POLLOUT;
  fds[1] = {.fd = stop, .events = POLLIN, .revents = 0};
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  const int ready = ::poll(fds.data(), fds.size(), static_cast<int>(std::max<long>(left, 0)));
  if (ready < 0 && errno != EINTR) return fail_errno(errno, "cannot wait for '" + uri_ + "'");
  if (ready == 0) return fail_errno(ETIMEDOUT, fmt::format("'{}' does not answer", uri_));
  if (ready < 0) return {};
  if (fds[1].revents != 0)
    return fail(ErrorKind::busy, "cannot wait for '{}': it is being closed", uri_);
  int result = 0;
  const bool ended = (fds[0].revents & (POLLHUP | POLLERR)) != 0;
  if ((fds[0].revents & POLLIN) != 0 || (ended && (direction & LIBNBD_AIO_DIRECTION_READ) != 0)) {
    result = nbd_aio_notify_read(handle());
  } else if ((fds[0].revents & POLLOUT) != 0 || ended) {
    result = nbd_aio_notify_write(handle());
  }
  if (result != 0) return link_failure(uri_, "cannot reach");
  return {};
}

bool NbdLink::answers(int stop) {
  if (facts_.size == 0) return !is_dead();
  struct Answer {
    bool done = false;
    int error = 0;
  } answer;
  const auto data = std::make_unique<std::byte[]>(facts_.least_block);
  const auto answered = [](void* self, int* error) {
    *static_cast<Answer*>(self) = {.done = true, .error = *error};
    return 1;
  };
  const NbdCommand probe{.op = IoOp::read, .length = facts_.least_block, .data = data.get()};
  const auto deadline = Clock::now() + patience;
  bool going = send(probe, {answered, &answer, nullptr}) == 0;
  while (going && !answer.done) going = !is_dead() && step(stop, deadline).has_value();
  const bool good = answer.done && !is_dead() && !is_farewell(answer.error);
  if (!good) close();  // it could still write to `data`
  return good;
}

}  // namespace tidepool::blockdev
