#include "blockdev/attach/attachment.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>

#include "base/log.h"
#include "base/size_text.h"
#include "base/uuid.h"
#include "blockdev/attach/device_use.h"

namespace tidepool::blockdev::attach {

namespace {

using namespace std::chrono_literals;

constexpr auto own_deadline = 60s;      // for our server, which opens its disk meanwhile
constexpr auto foreign_deadline = 10s;  // for a server that is there
constexpr auto server_patience = 60s;   // for what it still writes when it is stopped
constexpr auto adoption_deadline = 2s;  // until the kernel has noticed a dead socket
constexpr std::uint32_t most_block_size = 4096;
constexpr int least_pause = 100, most_pause = 5000;  // milliseconds between two attempts

}  // namespace

Result<std::unique_ptr<Attachment>> Attachment::start(const AttachOptions& options) {
  // Supervisor and server are what the kernel needs to write pages back when memory is
  // short: their own allocations must not wait for that. The server inherits it. No harm
  // where it is unknown (before Linux 5.6).
  ::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
  auto control = NbdControl::open();
  if (!control) return std::unexpected(control.error());
  auto directory = RunDirectory::create();
  if (!directory) return std::unexpected(directory.error());
  std::unique_ptr<Attachment> self(
      new Attachment(options, std::move(*control), std::move(*directory)));

  sigset_t ending;
  ::sigemptyset(&ending);
  ::sigaddset(&ending, SIGTERM);
  ::sigaddset(&ending, SIGINT);
  self->signals_ = UniqueFd(::signalfd(-1, &ending, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!self->signals_) return fail_errno(errno, "cannot wait for signals");
  if (auto locked = self->lock_file(); !locked) return std::unexpected(locked.error());
  if (auto started = self->start_server(); !started) return std::unexpected(started.error());
  if (auto attached = self->attach(); !attached) return std::unexpected(attached.error());
  return self;
}

Attachment::~Attachment() {
  if (!state_.backend.empty() && is_attached()) std::ignore = control_.disconnect(state_.index);
  connections_.clear();
  if (server_) server_->stop(server_patience);
}

Result<> Attachment::lock_file() {
  if (options_.target.kind != TargetKind::raw) return {};
  const std::string& path = options_.target.location;
  file_lock_ = UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file_lock_) return fail_errno(errno, "cannot open '" + path + "'");
  if (::flock(file_lock_.get(), (options_.read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0) {
    return fail(ErrorKind::busy, "'{}' is in use: another program has locked it", path);
  }
  return {};
}

Result<> Attachment::start_server() {
  if (options_.target.kind == TargetKind::uri) return {};
  const bool read_only = options_.read_only || options_.target.sealed;
  const ServerPlan plan{
      .target = options_.target,
      .read_only = read_only,
      .write_through =
          options_.target.kind == TargetKind::chain && !read_only && options_.reconnect,
      .plugin = options_.plugin};
  server_.reset();
  auto server = DiskServer::start(plan, directory_.path());
  if (!server) return std::unexpected(server.error());
  server_ = std::move(*server);
  state_.server_pid = server_->pid();
  return {};
}

std::string Attachment::uri() const {
  if (options_.target.kind == TargetKind::uri) return options_.target.location;
  return "nbd+unix:///?socket=" + (directory_.path() / "socket").native();
}

Result<std::vector<Connection>> Attachment::connect(unsigned count) {
  auto opened = open_connections(uri(), count, server_ ? own_deadline : foreign_deadline);
  // A server that cannot open its disk ends, and its own words say more.
  if (!opened && server_ && !server_->is_running()) {
    return fail(ErrorKind::io, "cannot serve '{}': {}", options_.target.location,
                last_message(directory_.path()));
  }
  return opened;
}

Result<> Attachment::attach() {
  auto opened = connect(options_.connections);
  if (!opened) return std::unexpected(opened.error());
  connections_ = std::move(*opened);
  offered_ = connections_.front().offered();
  DeviceSettings settings{.index = options_.index,
                          .size = offered_.size,
                          .block_size = std::max(options_.block_size, offered_.block_minimum),
                          .server_flags = offered_.flags(),
                          .timeout = options_.timeout,
                          .dead_timeout = options_.dead_timeout,
                          .backend = "nbd-attach " + tidepool::to_text(new_uuid())};
  if (options_.read_only) {
    Export shown = offered_;
    shown.read_only = true;
    settings.server_flags = shown.flags();
  }
  if (settings.block_size > most_block_size) {
    return fail(ErrorKind::unsupported, "{} takes blocks of {} bytes at least, the kernel {} at most",
                options_.target.location, settings.block_size, most_block_size);
  }
  if (offered_.size == 0 || offered_.size % settings.block_size != 0) {
    return fail(ErrorKind::invalid_argument,
                "{}: its size of {} bytes is not a multiple of the device's block size, {}",
                options_.target.location, offered_.size, settings.block_size);
  }
  std::vector<int> sockets;
  for (const Connection& connection : connections_) sockets.push_back(connection.fd());

  auto all = lock_all_attachments();
  if (!all) return std::unexpected(all.error());
  auto index = control_.connect(settings, sockets);
  if (!index) return std::unexpected(index.error());
  state_.index = *index;
  state_.kind = to_text(options_.target.kind);
  state_.target = options_.target.location;
  state_.backend = settings.backend;
  state_.size = offered_.size;
  state_.connections = static_cast<unsigned>(connections_.size());
  state_.read_only = options_.read_only || offered_.read_only;
  state_.pid = ::getpid();
  auto named = directory_.name_after(*index);
  if (named && !is_attached()) {
    named = fail(ErrorKind::unsupported,
                 "the kernel does not tell what {} is attached to: that takes Linux 5.14",
                 device_path(*index));
  }
  if (!named) {
    std::ignore = control_.disconnect(*index);
    return named;
  }
  publish("attached");
  return {};
}

void Attachment::publish(const char* state, const std::string& message) {
  state_.state = state;
  state_.message = message;
  directory_.write(state_);
}

// The kernel keeps the name of the attachment until the last user has closed the device.
bool Attachment::is_attached() const { return attached_backend(state_.index) == state_.backend; }

Attachment::Wake Attachment::wait(int milliseconds) {
  std::vector<pollfd> entries{{.fd = signals_.get(), .events = POLLIN, .revents = 0}};
  for (const Connection& connection : connections_)
    entries.push_back({.fd = connection.fd(), .events = POLLRDHUP, .revents = 0});
  if (::poll(entries.data(), entries.size(), milliseconds) <= 0) return Wake::time;
  signalfd_siginfo info{};
  if (::read(signals_.get(), &info, sizeof info) == sizeof info) return Wake::signal;
  return Wake::lost;
}

Result<> Attachment::supervise() {
  for (;;) {
    switch (wait(-1)) {
      case Wake::time: break;
      case Wake::signal:
        if (auto done = detach(); done) return {};
        else log().error("not detached: {}", done.error().message);
        break;
      case Wake::lost: {
        auto recovered = recover();
        if (!recovered) return give_up(recovered.error());
        if (!*recovered) return {};
        break;
      }
    }
  }
}

Result<> Attachment::detach() {
  auto all = lock_all_attachments();
  if (!all) return std::unexpected(all.error());
  auto held = hold_device(state_.index);
  if (!held) return std::unexpected(held.error());
  if (auto flushed = flush_device(state_.index, *held); !flushed) return flushed;
  return control_.disconnect(state_.index);
}

// What ended the connections: somebody detached the device, or the server is gone.
Result<bool> Attachment::recover() {
  const auto gone = [this] { return directory_.is_detaching() || !is_attached(); };
  std::this_thread::sleep_for(20ms);  // so long a detaching kernel may need
  if (gone()) return false;
  const std::string lost = server_ ? "its server ended" : "the connection was lost";
  if (!options_.reconnect) {
    return fail(ErrorKind::io, "{}: {}, and --no-reconnect was given", device_path(state_.index),
                lost);
  }
  log().warn("{}: {}; reconnecting", device_path(state_.index), lost);
  publish("reconnecting", lost);
  for (int pause = least_pause;; pause = std::min(2 * pause, most_pause)) {
    auto replaced = replace_lost();
    if (replaced) break;
    if (gone()) return false;
    if (replaced.error().kind == ErrorKind::corrupt) return std::unexpected(replaced.error());
    if (replaced.error().message != state_.message) {
      log().warn("{}: {}; trying on", device_path(state_.index), replaced.error().message);
      publish("reconnecting", replaced.error().message);
    }
    std::erase_if(connections_, [](const Connection& c) { return c.is_dead(); });
    if (wait(pause) == Wake::signal) {
      log().error("{}: not detached, as it waits for its server; 'nbd-detach --force' ends that",
                  device_path(state_.index));
    }
  }
  ++state_.reconnects;
  log().info("{}: connected again", device_path(state_.index));
  publish("attached");
  return true;
}

Result<> Attachment::replace_lost() {
  if (options_.target.kind != TargetKind::uri) {
    // One connection alone dies when a request was not answered in time, and is then
    // sent again. The old server must not carry it out after that.
    connections_.clear();
    if (auto started = start_server(); !started) return started;
  }
  std::erase_if(connections_, [](const Connection& c) { return c.is_dead(); });
  const unsigned missing = state_.connections - static_cast<unsigned>(connections_.size());
  if (missing == 0) return {};
  auto opened = connect(missing);
  if (!opened) return std::unexpected(opened.error());
  if (opened->front().offered() != offered_) {
    return fail(ErrorKind::corrupt, "{} is not the disk that it was: {} now, {} before, or with other features",
                options_.target.location, format_size_exactly(opened->front().offered().size),
                format_size_exactly(offered_.size));
  }
  for (Connection& connection : *opened) {
    if (auto done = hand_over(std::move(connection)); !done) return done;
  }
  return {};
}

// The kernel takes a socket only in the place of one that it knows to be dead, which
// it may notice a moment after we do.
Result<> Attachment::hand_over(Connection connection) {
  const auto end = std::chrono::steady_clock::now() + adoption_deadline;
  const int fd = connection.fd();
  for (;;) {
    if (auto asked = control_.replace(state_.index, state_.backend, {&fd, 1}); !asked)
      return asked;
    if (connection.is_adopted()) break;
    if (std::chrono::steady_clock::now() > end) {
      return fail(ErrorKind::busy, "{}: the kernel has no place for a new connection",
                  device_path(state_.index));
    }
    std::this_thread::sleep_for(10ms);
  }
  connections_.push_back(std::move(connection));
  return {};
}

// From here on the device only fails. It is kept company until its users have gone, so
// that they can see why.
std::unexpected<Error> Attachment::give_up(const Error& reason) {
  log().error("{}; the device is disconnected", reason.message);
  connections_.clear();
  std::ignore = control_.disconnect(state_.index);
  publish("failed", reason.message);
  while (is_attached() && !directory_.is_detaching()) {
    if (wait(200) == Wake::signal) break;
  }
  return std::unexpected(reason);
}

}  // namespace tidepool::blockdev::attach
