#include "blockdev/stores/nbd_link.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/checked.h"

namespace tidepool::blockdev {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds patience{30};

// What the protocol has clients assume where the server does not say.
constexpr std::uint32_t usual_block = 512, usual_most = 32U << 20;
constexpr std::uint64_t most_zeroed = std::uint64_t{1} << 30;  // by one command, without data

int answered(void* self, int* error) {
  auto& answer = *static_cast<RemoteAnswer*>(self);
  answer.error = *error;
  answer.gone = *error == ESHUTDOWN;  // it is about to end: then another one may come
  answer.length = answer.command.length;
  answer.stable = answer.command.force_unit_access;
  answer.answered(answer);
  return 1;
}

int take_extents(void* self, const char*, std::uint64_t, std::uint32_t* entries, std::size_t count,
                 int*) {
  static_cast<RemoteAnswer*>(self)->command.extents->assign(entries, entries + count);
  return 0;
}

}  // namespace

// In libnbd's words, but without the library's function in front.
std::string NbdLink::last_failure() const {
  const char* const text = nbd_.get_error();
  std::string out = text != nullptr ? text : "the server closed the connection";
  if (out.starts_with("nbd_")) {
    if (const auto colon = out.find(": "); colon != std::string::npos) out.erase(0, colon + 2);
  }
  return out;
}

std::unexpected<Error> NbdLink::link_failure(const char* what) const {
  const int error = nbd_.get_errno();
  auto failed = fail_errno(error != 0 ? error : EIO, "");
  failed.error().message = fmt::format("{} '{}': {}", what, uri_, last_failure());
  return failed;
}

std::string NbdLink::failure() { return last_failure(); }

Result<std::unique_ptr<RemoteLink>> NbdLink::connect(const std::string& uri, int stop) {
  const auto library = nbd_library();
  if (!library) return std::unexpected(library.error());
  std::unique_ptr<NbdLink> link(new NbdLink(uri, **library));
  if (!link->handle_) return link->link_failure("cannot connect to");
  if (auto r = link->shake_hands(stop); !r) return std::unexpected(r.error());
  if (auto r = link->learn(); !r) return std::unexpected(r.error());
  watch_peer(link->descriptor());
  return link;
}

NbdLink::~NbdLink() {
  if (!handle_) return;
  if (nbd_.aio_is_ready(handle()) == 1) nbd_.aio_disconnect(handle(), 0);
  // A poll that is under way holds the socket open: this ends both.
  if (const int fd = nbd_.aio_get_fd(handle()); fd >= 0) ::shutdown(fd, SHUT_RDWR);
}

Result<> NbdLink::shake_hands(int stop) {
  nbd_handle* const h = handle();
  if (nbd_.add_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0 ||
      nbd_.set_uri_allow_local_file(h, true) != 0 ||  // keys for TLS
      nbd_.set_pread_initialize(h, false) != 0 ||     // what is not read is not shown
      nbd_.aio_connect_uri(h, uri_.c_str()) != 0) {
    return link_failure("cannot connect to");
  }
  const auto deadline = Clock::now() + patience;
  while (nbd_.aio_is_ready(h) != 1) {
    if (is_dead()) return link_failure("cannot connect to");
    if (auto r = step(stop, deadline); !r) return r;
  }
  return {};
}

Result<> NbdLink::learn() {
  nbd_handle* const h = handle();
  const std::int64_t size = nbd_.get_size(h);
  if (size < 0) return link_failure("cannot read the size of");
  const auto ask = [h](int (*question)(nbd_handle*)) { return question(h) == 1; };
  const auto limit = [this, h](int kind) {
    return static_cast<std::uint64_t>(std::max<std::int64_t>(nbd_.get_block_size(h, kind), 0));
  };
  facts_.size = static_cast<std::uint64_t>(size);
  std::uint64_t least = limit(LIBNBD_SIZE_MINIMUM);
  if (least == 0) least = facts_.size % usual_block == 0 ? usual_block : 1;
  if (!is_power_of_two(least) || least > zero_block().size()) {
    return fail(ErrorKind::unsupported, "cannot use '{}': it wants blocks of {} bytes", uri_, least);
  }
  facts_.least_block = static_cast<std::uint32_t>(least);
  facts_.size = round_down(facts_.size, least);
  std::uint64_t most = limit(LIBNBD_SIZE_MAXIMUM);
  most = most == 0 ? usual_most : std::clamp<std::uint64_t>(most, least, usual_most);
  facts_.most_bytes = static_cast<std::uint32_t>(round_down(most, least));
  facts_.read_only = nbd_.is_read_only(h) != 0;
  facts_.can_flush = ask(nbd_.can_flush);
  facts_.can_fua = ask(nbd_.can_fua);
  facts_.can_trim = ask(nbd_.can_trim);
  facts_.can_zero = ask(nbd_.can_zero);
  facts_.multi_conn = ask(nbd_.can_multi_conn);
  facts_.has_status = nbd_.can_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1;
  return {};
}

bool NbdLink::is_dead() {
  return !handle_ || nbd_.aio_is_dead(handle()) == 1 || nbd_.aio_is_closed(handle()) == 1;
}

std::uint64_t NbdLink::most_of(IoOp op) const {
  if (op == IoOp::read || op == IoOp::write) return facts_.most_bytes;
  if (facts_.can_zero) return most_zeroed;
  return std::max<std::uint64_t>(
      facts_.least_block,
      round_down(std::min<std::uint64_t>(facts_.most_bytes, zero_block().size()),
                 std::uint64_t{facts_.least_block}));
}

int NbdLink::send(const RemoteCommand& c, RemoteAnswer& answer) {
  nbd_handle* const h = handle();
  answer.link = this;
  answer.command = c;
  const nbd_completion_callback done{answered, &answer, nullptr};
  const std::uint32_t fua = c.force_unit_access ? LIBNBD_CMD_FLAG_FUA : 0;
  std::int64_t cookie = -1;
  if (c.extents != nullptr) {
    cookie = nbd_.aio_block_status(h, c.length, c.offset, {take_extents, &answer, nullptr}, done, 0);
  } else if (c.op == IoOp::read) {
    cookie = nbd_.aio_pread(h, c.data, c.length, c.offset, done, 0);
  } else if (c.op == IoOp::write) {
    cookie = nbd_.aio_pwrite(h, c.data, c.length, c.offset, done, fua);
  } else if (c.op == IoOp::flush) {
    cookie = nbd_.aio_flush(h, done, 0);
  } else if (c.op == IoOp::allocate) {
    return EOPNOTSUPP;
  } else if (facts_.can_zero) {
    // A trim would promise nothing; this reads as zeros, and may be a hole.
    const std::uint32_t keep = c.op == IoOp::zero ? LIBNBD_CMD_FLAG_NO_HOLE : 0;
    cookie = nbd_.aio_zero(h, c.length, c.offset, done, fua | keep);
  } else {
    cookie = nbd_.aio_pwrite(h, zero_block().data(), c.length, c.offset, done, fua);
  }
  if (cookie >= 0) return 0;
  const int error = nbd_.get_errno();
  return error != 0 ? error : EIO;
}

int NbdLink::descriptor() { return nbd_.aio_get_fd(handle()); }

short NbdLink::awaited() {
  const unsigned direction = nbd_.aio_get_direction(handle());
  short events = 0;
  if ((direction & LIBNBD_AIO_DIRECTION_READ) != 0) events |= POLLIN;
  if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0) events |= POLLOUT;
  return events;
}

bool NbdLink::go_on(short events) {
  // libnbd may have had enough after the first of the two.
  if ((events & POLLIN) != 0) return nbd_.aio_notify_read(handle()) == 0;
  if ((events & POLLOUT) != 0) return nbd_.aio_notify_write(handle()) == 0;
  return true;
}

}  // namespace tidepool::blockdev
