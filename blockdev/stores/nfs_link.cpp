#include "blockdev/stores/nfs_link.h"

#include <nfsc/libnfs-raw-mount.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>
#include <utility>

#include "base/checked.h"
#include "blockdev/stores/nfs_errors.h"

namespace tidepool::blockdev {

namespace {

using std::chrono::milliseconds;

constexpr std::chrono::seconds patience{30};
constexpr int pause_ms = 100;  // before asking again
constexpr int nfs_program = 100003, mount_program = 100005, mount_version = 3;
constexpr int usual_port = 2049;
constexpr std::uint32_t least_block = 512;
constexpr std::uint32_t most_reply = 1U << 20;  // bytes; libnfs refuses more
constexpr std::uint32_t usual_most = 64U << 10;
constexpr std::uint64_t most_discarded = std::uint64_t{1} << 30;  // bytes, of one call

// Never 0, which says that nothing is known.
std::uint64_t as_server(std::uint64_t verifier) { return verifier == 0 ? ~verifier : verifier; }

struct OneCall {
  bool done = false;
  int status = RPC_STATUS_ERROR;
  std::string failure;
  const std::function<void(void*)>* take = nullptr;

  static void replied(rpc_context*, int status, void* data, void* self) {
    auto& call = *static_cast<OneCall*>(self);
    call.done = true;
    call.status = status;
    if (status == RPC_STATUS_SUCCESS) {
      (*call.take)(data);
    } else if (status == RPC_STATUS_ERROR && data != nullptr) {
      call.failure = static_cast<const char*>(data);
    }
  }
};

}  // namespace

NfsEndpoint::NfsEndpoint(std::string uri, NfsLocation where, const RemoteOptions& options)
    : uri_(std::move(uri)),
      where_(std::move(where)),
      read_only_(options.read_only),
      unacknowledged_(options.unacknowledged),
      protocol_(where_.version == 4 ? nfs_v4() : nfs_v3()) {}

// No other connection's, of this host or another. Random numbers are asked for only when the file
// is first opened: later the process may have given up the right to.
std::string NfsEndpoint::new_owner() {
  if (owner_.empty()) {
    std::random_device random;
    owner_ = "tidepool ";
    for (int i = 0; i < 4; ++i) owner_ += fmt::format("{:08x}", random());
  }
  return fmt::format("{} {}", owner_, ++owners_);
}

Result<std::unique_ptr<RemoteLink>> NfsEndpoint::connect(int stop) {
  const bool known = !handle_.empty();
  std::vector<char> root;
  if (!known && where_.version == 3) {
    NfsLink mountd(*this);
    auto mounted = mountd.mount(stop);
    if (!mounted) return std::unexpected(mounted.error());
    root = std::move(*mounted);
  }
  std::unique_ptr<NfsLink> link(new NfsLink(*this));
  const int port = where_.nfs_port == 0 && where_.version == 4 ? usual_port : where_.nfs_port;
  if (auto r = link->open(stop, nfs_program, port); !r) return std::unexpected(r.error());
  if (!known) {
    auto found = link->find(stop, *this, root);
    if (found) found = link->try_read(stop);
    if (found && !read_only_ && where_.version == 4 && !no_holes_) {
      found = link->try_hole(stop, *this);
      if (!found && found.error().kind != ErrorKind::busy) {
        // It ended the connection when it was asked: it is not asked again.
        no_holes_ = true;
        handle_.clear();
        return connect(stop);
      }
    }
    if (!found) {
      handle_.clear();
      return std::unexpected(found.error());
    }
  }
  link->facts_ = disk_;
  if (disk_.can_trim && !link->holes_)
    link->holes_ = std::make_unique<Nfs42Session>(new_owner());
  if (!read_only_) {
    if (auto r = link->meet(stop); !r) {
      if (!known) handle_.clear();
      flush_failed_ = known;
      return std::unexpected(r.error());
    }
    link->flush_failed_ = std::exchange(flush_failed_, false);
  }
  return link;
}

void NfsLink::Destroy::operator()(rpc_context* rpc) const { rpc_destroy_context(rpc); }

NfsLink::NfsLink(const NfsEndpoint& endpoint)
    : RemoteLink(endpoint.uri_),
      where_(endpoint.where_),
      protocol_(endpoint.protocol_),
      unacknowledged_(endpoint.unacknowledged_),
      handle_(endpoint.handle_),
      rpc_(rpc_init_context()) {}

NfsLink::~NfsLink() { close(); }

void NfsLink::die(std::string why) {
  if (!std::exchange(dead_, true)) failure_ = std::move(why);
}

void NfsLink::close() {
  die("it is closed");
  if (!rpc_) return;
  // A poll that is under way holds the socket open: this ends both.
  if (const int fd = rpc_get_fd(rpc_.get()); fd >= 0) ::shutdown(fd, SHUT_RDWR);
  rpc_.reset();  // answers what is in flight
}

// --- setting up ---

Result<> NfsLink::open(int stop, int program, int port) {
  if (!rpc_) return fail_errno(ENOMEM, fmt::format("cannot connect to '{}'", uri_));
  const int version = program == mount_program ? mount_version : protocol_.program_version;
  if (where_.uid >= 0) rpc_set_uid(rpc_.get(), where_.uid);
  if (where_.gid >= 0) rpc_set_gid(rpc_.get(), where_.gid);
  OneCall call;
  const std::function<void(void*)> nothing = [](void*) {};
  call.take = &nothing;
  const char* const server = where_.server.c_str();
  const int begun =
      port != 0
          ? rpc_connect_async(rpc_.get(), server, port, OneCall::replied, &call)
          : rpc_connect_program_async(rpc_.get(), server, program, version, OneCall::replied, &call);
  const auto failed = [&](const char* why) {
    const char* const text = rpc_get_error(rpc_.get());
    auto error = fail_errno(ECONNREFUSED, "");
    error.error().message =
        fmt::format("cannot connect to '{}': {}", uri_, text != nullptr ? text : why);
    close();  // while `call` is there to be told
    return error;
  };
  if (begun != 0) return failed("no connection");
  const auto deadline = Clock::now() + patience;
  while (!call.done) {
    connect_soon(rpc_get_fd(rpc_.get()));  // to the portmapper first, perhaps
    if (auto r = step(stop, deadline); !r) {
      if (r.error().kind != ErrorKind::busy && r.error().errno_value != ETIMEDOUT)
        return failed("the server closed the connection");
      close();
      return r;
    }
  }
  if (call.status != RPC_STATUS_SUCCESS) return failed("the server closed the connection");
  watch_peer(rpc_get_fd(rpc_.get()), unacknowledged_);
  return {};
}

Result<> NfsLink::ask(int stop, const std::function<int(rpc_cb, void*)>& send,
                      const std::function<void(void*)>& take) {
  OneCall call;
  call.take = &take;
  const auto failed = [&](std::string why) -> Result<> {
    close();  // while `call` is there to be told
    auto error = fail_errno(EIO, "");
    error.error().message = fmt::format("cannot use '{}': {}", uri_, why);
    return error;
  };
  if (send(OneCall::replied, &call) != 0) return failed("a call cannot be sent");
  const auto deadline = Clock::now() + patience;
  while (!call.done) {
    if (auto r = step(stop, deadline); !r) {
      close();
      return r;
    }
  }
  if (call.status == RPC_STATUS_SUCCESS) return {};
  return failed(call.failure.empty() ? "the connection ended" : call.failure);
}

std::unexpected<Error> NfsLink::refused(std::uint32_t status) const {
  const NfsError why = nfs_error(status);
  auto error = fail_errno(why.error, "");
  error.error().message = fmt::format("cannot open '{}': {}", uri_, why.text);
  return error;
}

// The export's handle, of version 3's mount daemon.
Result<std::vector<char>> NfsLink::mount(int stop) {
  if (auto r = open(stop, mount_program, where_.mount_port); !r) return std::unexpected(r.error());
  std::string directory = where_.directory;
  std::uint32_t status = 0;
  std::vector<char> root;
  auto asked = ask(
      stop,
      [&](rpc_cb replied, void* self) {
        return rpc_mount3_mnt_async(rpc_.get(), replied, directory.data(), self);
      },
      [&](void* reply) {
        const auto& r = *static_cast<mountres3*>(reply);
        status = static_cast<std::uint32_t>(r.fhs_status);
        if (status != 0) return;
        const auto& handle = r.mountres3_u.mountinfo.fhandle;
        root.assign(handle.fhandle3_val, handle.fhandle3_val + handle.fhandle3_len);
      });
  if (!asked) return std::unexpected(asked.error());
  if (status != 0) {  // its numbers are NFS's
    auto error = fail_errno(nfs_error(status).error, "");
    error.error().message = fmt::format(
        "cannot open '{}': the server refuses to mount '{}', number {}; is it exported to "
        "this host?",
        uri_, where_.directory, status);
    return error;
  }
  return root;
}

Result<> NfsLink::find(int stop, NfsEndpoint& endpoint, std::span<const char> root) {
  NfsFile file;
  const NfsAsk ask_here = [&](const auto& send, const auto& take) { return ask(stop, send, take); };
  auto found = protocol_.find(ask_here, rpc_.get(), where_, root, file);
  if (!found) return std::unexpected(found.error());
  if (*found != 0) return refused(*found);
  if (!file.is_regular)
    return fail(ErrorKind::unsupported, "cannot open '{}': it is not a regular file", uri_);
  if (file.handle.empty()) return refused(0);
  const auto most = [](std::uint32_t says, std::uint32_t limit) {
    says = std::min(says == 0 ? usual_most : says, limit);
    return std::max(round_down(says, least_block), least_block);
  };
  // Writes are the shorter ones, if the two differ.
  const std::uint32_t write = most(file.most_write, protocol_.most_write(rpc_.get()));
  endpoint.handle_ = std::move(file.handle);
  endpoint.disk_ = {.size = round_down<std::uint64_t>(file.size, least_block),
                    .least_block = least_block,
                    .most_bytes = std::min(most(file.most_read, most_reply), write),
                    .read_only = endpoint.read_only_,
                    .can_flush = true,
                    .can_fua = true,
                    .multi_conn = true,
                    .changed_ns = file.changed_ns};
  return {};
}

// Finding a file needs no permission to read it.
Result<> NfsLink::try_read(int stop) {
  NfsReply reply;
  const RemoteCommand command{.op = IoOp::read, .length = least_block};
  auto asked = ask(
      stop,
      [&](rpc_cb replied, void* self) {
        return protocol_.send(rpc_.get(), handle_, command, replied, self);
      },
      [&](void* data) { reply = protocol_.parse(IoOp::read, data); });
  if (!asked || reply.status == 0) return asked;
  const NfsError why = nfs_error(reply.status);
  return why.remedy == NfsError::Remedy::none ? Result<>(refused(reply.status)) : Result<>();
}

// Asks which start of the server this is.
Result<> NfsLink::meet(int stop) {
  const auto deadline = Clock::now() + patience;
  for (;;) {
    NfsReply reply;
    auto asked = ask(
        stop,
        [&](rpc_cb replied, void* self) {
          return protocol_.send(rpc_.get(), handle_, {.op = IoOp::flush}, replied, self);
        },
        [&](void* data) { reply = protocol_.parse(IoOp::flush, data); });
    if (!asked) return asked;
    if (reply.status == 0) {
      server_ = as_server(reply.verifier);
      return {};
    }
    if (nfs_error(reply.status).remedy != NfsError::Remedy::later || Clock::now() >= deadline)
      return refused(reply.status);
    if (auto r = wait_to_ask(stop); !r) return r;
  }
}

Result<> NfsLink::wait_to_ask(int stop) const {
  pollfd stopped{.fd = stop, .events = POLLIN, .revents = 0};
  if (::poll(&stopped, 1, pause_ms) > 0)
    return fail(ErrorKind::busy, "cannot wait for '{}': it is being closed", uri_);
  return {};
}

// --- commands ---

int NfsLink::send(const RemoteCommand& command, RemoteAnswer& answer) {
  if (dead_) return ENOTCONN;
  if (command.extents != nullptr || command.op == IoOp::allocate) return EOPNOTSUPP;
  answer.link = this;
  answer.command = command;
  if (command.op == IoOp::discard && holes_) {
    discards_.push_back(&answer);
    discard_next();
  } else if (const int error = send_call(answer); error != 0) {
    return error;
  }
  // What the socket takes goes at once.
  go_on(POLLOUT);
  return 0;
}

int NfsLink::send_call(RemoteAnswer& answer) {
  RemoteCommand& sent = answer.command;
  if (sent.op == IoOp::zero || sent.op == IoOp::discard) {
    sent.data = zero_block().data();
    sent.length = std::min<std::uint64_t>(sent.length, most_of(IoOp::zero));
  }
  const auto replied = [](rpc_context*, int status, void* data, void* self) {
    auto& taken = *static_cast<RemoteAnswer*>(self);
    auto& link = static_cast<NfsLink&>(*taken.link);
    if (status == RPC_STATUS_SUCCESS) {
      link.take_reply(taken, data);
    } else {
      const bool has_text = status == RPC_STATUS_ERROR && data != nullptr;
      link.die(has_text ? static_cast<const char*>(data) : "the connection ended");
      taken.gone = true;
    }
    taken.answered(taken);
  };
  return protocol_.send(rpc_.get(), handle_, sent, replied, &answer) == 0 ? 0 : ENOMEM;
}

void NfsLink::refuse(RemoteAnswer& answer, std::uint32_t status) {
  const NfsError why = nfs_error(status);
  answer.error = why.error;
  answer.later = why.remedy == NfsError::Remedy::later;
  answer.gone = why.remedy == NfsError::Remedy::reconnect;
  if (answer.gone) die(why.text);
}

void NfsLink::take_reply(RemoteAnswer& answer, void* data) {
  const RemoteCommand& command = answer.command;
  const NfsReply reply = protocol_.parse(command.op, data);
  if (reply.status != 0) return refuse(answer, reply.status);
  if (command.op != IoOp::read) answer.server = as_server(reply.verifier);
  if (command.op == IoOp::flush) return;
  answer.length = reply.count;
  answer.stable = reply.stable;
  // More than was asked for is a lie; nothing is the end of a file that became shorter.
  if (reply.count > command.length || reply.count == 0) {
    answer.error = EIO;
  } else if (command.op == IoOp::read) {
    std::memcpy(command.data, reply.data, reply.count);
  }
}

std::uint64_t NfsLink::most_of(IoOp op) const {
  if (op == IoOp::discard && holes_) return most_discarded;
  if (op == IoOp::read || op == IoOp::write) return facts_.most_bytes;
  return std::min<std::uint64_t>(facts_.most_bytes, zero_block().size());
}

int NfsLink::descriptor() { return rpc_ ? rpc_get_fd(rpc_.get()) : -1; }

short NfsLink::awaited() {
  return rpc_ ? static_cast<short>(rpc_which_events(rpc_.get())) : short{0};
}

bool NfsLink::go_on(short events) {
  if (dead_) return false;
  if (rpc_service(rpc_.get(), events) == 0) return true;
  const char* const text = rpc_get_error(rpc_.get());
  die(text != nullptr ? text : "the server closed the connection");
  return false;
}

}  // namespace tidepool::blockdev
