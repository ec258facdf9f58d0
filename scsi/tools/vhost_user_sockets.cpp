#include "scsi/tools/vhost_user_sockets.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "base/log.h"
#include "scsi/names.h"
#include "virtio/vhost_user/back_end.h"

namespace tidepool::scsi::tools {

namespace {

constexpr std::uint16_t request_queues = 8;  // a front end may use fewer
constexpr unsigned most_front_ends = 64;     // of one socket
constexpr int backlog = 8;

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{.sun_family = AF_UNIX};
  if (path.empty() || path.size() >= sizeof address.sun_path)
    return fail(ErrorKind::invalid_argument,
                "'{}' is no path for a socket: it has more than {} bytes, or none", path,
                sizeof address.sun_path - 1);
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

// A socket that a program left which is gone: nobody answers on it.
bool is_left(const std::string& path, const sockaddr_un& address) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0 || !S_ISSOCK(status.st_mode)) return false;
  const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return probe &&
         ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 &&
         errno == ECONNREFUSED;
}

}  // namespace

VhostUserSockets::~VhostUserSockets() { stop(); }

Result<> VhostUserSockets::listen(const std::string& name) {
  std::error_code error;
  const std::string path = std::filesystem::absolute(name, error).native();
  if (error) return fail_errno(error.value(), fmt::format("cannot find '{}'", name));
  const auto address = address_of(path);
  if (!address) return std::unexpected(address.error());
  if (is_left(path, *address)) ::unlink(path.c_str());
  auto listener = std::make_unique<Listener>();
  listener->sockets = this;
  listener->path = path;
  listener->socket.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  // The file is made with the mode of the socket: at no moment may others connect.
  if (!listener->socket || ::fchmod(listener->socket.get(), 0600) != 0 ||
      ::bind(listener->socket.get(), reinterpret_cast<const sockaddr*>(&*address),
             sizeof *address) != 0)
    return fail_errno(errno, fmt::format("cannot make the socket '{}'", path));
  listeners_.push_back(std::move(listener));
  if (::listen(listeners_.back()->socket.get(), backlog) != 0)
    return fail_errno(errno, fmt::format("cannot listen on '{}'", path));
  return {};
}

void VhostUserSockets::start() {
  for (const auto& listener : listeners_) accept(*listener);
}

void VhostUserSockets::accept(Listener& listener) {
  if (stopping_) return;
  listener.accepting = true;
  listener.on_complete = [](Operation& self, int result, unsigned) {
    Listener& done = static_cast<Listener&>(self);
    done.sockets->accepted(done, result);
  };
  io_uring_prep_accept(loop_.prepare(listener), listener.socket.get(), nullptr, nullptr,
                       SOCK_CLOEXEC);
}

unsigned VhostUserSockets::free_number(const Listener& listener) const {
  unsigned number = 0;
  const auto taken = [&](const Connection& other) {
    return other.listener == &listener && other.number == number;
  };
  while (std::ranges::any_of(connections_, taken)) ++number;
  return number;
}

void VhostUserSockets::accepted(Listener& listener, int result) {
  listener.accepting = false;
  UniqueFd socket(result);
  if (stopping_) return;
  accept(listener);
  if (!socket) {
    if (result != -EINTR && result != -EAGAIN && result != -ECONNABORTED)
      log().warn("'{}': cannot accept a front end: {}", listener.path, std::strerror(-result));
    return;
  }
  const unsigned number = free_number(listener);
  UniqueFd own(::fcntl(socket.get(), F_DUPFD_CLOEXEC, 0));
  if (number >= most_front_ends || !own)
    return log().warn("'{}': a front end is sent away: {} are there", listener.path, number);
  Connection& connection = connections_.emplace_back();
  connection.listener = &listener;
  connection.number = number;
  connection.socket = std::move(own);
  try {
    connection.thread = std::thread([this, &connection, given = std::move(socket)]() mutable {
      serve(connection, std::move(given));
      // Its end is seen by the front end at once, whenever the thread is joined.
      ::shutdown(connection.socket.get(), SHUT_RDWR);
      loop_.post([this, &connection] {
        connection.thread.join();
        connections_.remove_if([&](const Connection& other) { return &other == &connection; });
      });
    });
  } catch (const std::system_error& error) {  // no thread is left
    connections_.pop_back();
    log().warn("'{}': a front end is sent away: {}", listener.path, error.what());
  }
}

void VhostUserSockets::serve(Connection& connection, UniqueFd socket) {
  const std::string& path = connection.listener->path;
  const std::string name = fmt::format("'{}', front end {}", path, connection.number);
  auto created = virtio::ScsiDevice::create(device_, loop_,
                                            {.name = name,
                                             .port = local_port(host_ + path, connection.number),
                                             .request_queues = request_queues});
  if (!created) return log().warn("{}: sent away: {}", name, created.error().message);
  virtio::ScsiDevice& device = **created;
  call_on(loop_, [&] { connection.device = &device; });
  log().info("{} has come", name);
  Result<> served;
  {
    virtio::vhost_user::BackEnd back_end(device, std::move(socket), {.sealed_memory_only = true});
    served = back_end.serve();
    // What is under way is of no use to anybody, and its end may be far away.
    loop_.post([&device] { device.drop_all(); });
  }
  call_on(loop_, [&] { connection.device = nullptr; });
  if (served)
    log().info("{} has gone", name);
  else
    log().warn("{} is sent away: {}", name, served.error().message);
}

void VhostUserSockets::stop() {
  if (std::exchange(stopping_, true)) return;
  for (const auto& listener : listeners_) {
    ::unlink(listener->path.c_str());
    ::shutdown(listener->socket.get(), SHUT_RDWR);
  }
  for (Connection& connection : connections_) {
    ::shutdown(connection.socket.get(), SHUT_RDWR);
    if (connection.device != nullptr) connection.device->drop_all();
  }
}

bool VhostUserSockets::idle() const {
  return connections_.empty() &&
         std::ranges::none_of(listeners_, [](const auto& listener) { return listener->accepting; });
}

}  // namespace tidepool::scsi::tools
