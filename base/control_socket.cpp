#include "base/control_socket.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <exception>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>

#include "base/log.h"
#include "base/quiet_thread.h"
#include "base/unix_address.h"

namespace tidepool {
namespace {

using nlohmann::json;

constexpr std::size_t body_limit = 1024 * 1024;     // bytes, of a request
constexpr std::size_t reply_limit = 256 * body_limit;
constexpr std::size_t most_connections = 16;  // at one time
constexpr time_t patience = 5;                // seconds: for a client that does not go on
constexpr const char* json_type = "application/json";

struct KindRow {
  ErrorKind kind;
  const char* name;
  unsigned status;
};

constexpr KindRow kinds[] = {
    {ErrorKind::invalid_argument, "invalid_argument", 400},
    {ErrorKind::not_found, "not_found", 404},
    {ErrorKind::exists, "exists", 409},
    {ErrorKind::busy, "busy", 423},
    {ErrorKind::no_space, "no_space", 507},
    {ErrorKind::corrupt, "corrupt", 500},
    {ErrorKind::unsupported, "unsupported", 501},
    {ErrorKind::permission, "permission", 403},
    {ErrorKind::io, "io", 500},
};

const KindRow& row_of(ErrorKind kind) {
  for (const KindRow& row : kinds)
    if (row.kind == kind) return row;
  return kinds[std::size(kinds) - 1];
}

std::string error_text(unsigned status, const char* kind, int errno_value,
                       const std::string& message) {
  const json body = {{"error", {{"kind", kind}, {"errno", errno_value}, {"message", message}}}};
  return response_text(status, json_type,
                       body.dump(-1, ' ', false, json::error_handler_t::replace) + "\n");
}

std::string error_text(const Error& error) {
  const KindRow& row = row_of(error.kind);
  return error_text(row.status, row.name, error.errno_value, error.message);
}

// The Error that a reply carries; nothing when the reply is not of that form.
std::optional<Error> error_in(const std::string& body) {
  const json reply = json::parse(body, nullptr, false);
  if (!reply.is_object() || !reply.contains("error")) return std::nullopt;
  const json& part = reply["error"];
  if (!part.is_object()) return std::nullopt;
  const auto kind = part.find("kind");
  const auto number = part.find("errno");
  const auto message = part.find("message");
  if (kind == part.end() || !kind->is_string() || number == part.end() ||
      !number->is_number_integer() || message == part.end() || !message->is_string())
    return std::nullopt;
  for (const KindRow& row : kinds)
    if (kind->get<std::string>() == row.name)
      return Error{row.kind, number->get<int>(), message->get<std::string>()};
  return std::nullopt;
}

UniqueFd unix_socket() { return UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)); }

// Succeeds when a program listens on the socket.
Result<UniqueFd> connect_to(const std::string& path) {
  const auto address = unix_address(path);
  if (!address) return std::unexpected(address.error());
  UniqueFd fd = unix_socket();
  if (!fd) return fail_errno(errno, "control socket: cannot create a socket");
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address) == 0)
    return fd;
  if (errno == ENOENT || errno == ECONNREFUSED)
    return fail(ErrorKind::not_found, "control socket {}: no program answers there", path);
  if (errno == EACCES || errno == EPERM)
    return fail(ErrorKind::permission,
                "control socket {}: belongs to another user; run this as that user or as root",
                path);
  return fail_errno(errno, fmt::format("control socket {}: cannot connect", path));
}

// Makes room for a new socket file: removes the one of a dead program.
Result<> clear_path(const std::string& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return {};
    return fail_errno(errno, fmt::format("control socket {}", path));
  }
  if (!S_ISSOCK(status.st_mode))
    return fail(ErrorKind::exists,
                "control socket {}: a file that is not a socket is in its place; move it away",
                path);
  if (connect_to(path))
    return fail(ErrorKind::busy, "control socket {}: another program answers there; stop it first",
                path);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT)
    return fail_errno(errno,
                      fmt::format("control socket {}: cannot remove the one left behind", path));
  return {};
}

// The component that a route's "*" stands for, empty where it has none; nothing where the
// route is another.
std::optional<std::string> match(const ControlRoute& route, const std::string& method,
                                 const std::string& path) {
  if (method != route.method) return std::nullopt;
  if (!route.path.ends_with("/*")) {
    return path == route.path ? std::optional(std::string()) : std::nullopt;
  }
  const std::size_t stem = route.path.size() - 1;
  if (!path.starts_with(std::string_view(route.path).substr(0, stem))) return std::nullopt;
  std::string name = path.substr(stem);
  if (name.empty() || name.find('/') != name.npos) return std::nullopt;
  return name;
}

// All of it; false: the other side is gone, or does not take it.
bool send_all(int socket, std::string_view text) {
  while (!text.empty()) {
    const ssize_t sent = ::send(socket, text.data(), text.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(sent));
  }
  return true;
}

// Until the message is whole.
Result<> receive_all(int socket, HttpReader& reader) {
  std::array<char, 4096> piece;
  for (;;) {
    const ssize_t got = ::recv(socket, piece.data(), piece.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno(errno, "the connection was lost");
    auto whole = reader.take({piece.data(), static_cast<std::size_t>(got)});
    if (!whole) return std::unexpected(whole.error());
    if (*whole) return {};
  }
}

}  // namespace

std::string control_directory(const std::string& program) {
  const auto variable = [](const std::string& name) {
    const char* const value = ::secure_getenv(name.c_str());
    return std::string(value != nullptr ? value : "");
  };
  std::string chosen = program + "_run";
  for (char& c : chosen)
    c = c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  if (auto directory = variable(chosen); !directory.empty()) return directory;
  if (::geteuid() == 0) return "/run/" + program;
  if (auto session = variable("XDG_RUNTIME_DIR"); !session.empty()) return session + "/" + program;
  return fmt::format("/tmp/{}-{}", program, ::geteuid());
}

ControlServer::ControlServer(std::string socket_path, std::vector<ControlRoute> routes,
                             UniqueFd listener, UniqueFd wakeup)
    : socket_path_(std::move(socket_path)),
      routes_(std::move(routes)),
      listener_(std::move(listener)),
      wakeup_(std::move(wakeup)) {}

Result<std::unique_ptr<ControlServer>> ControlServer::start(const std::string& socket_path,
                                                            std::vector<ControlRoute> routes,
                                                            std::function<void()> on_thread) {
  const auto address = unix_address(socket_path);
  if (!address) return std::unexpected(address.error());
  const auto directory = std::filesystem::path(socket_path).parent_path();
  if (!directory.empty() && ::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST)
    return fail_errno(
        errno, fmt::format("control socket {}: cannot create {}", socket_path, directory.string()));
  if (auto cleared = clear_path(socket_path); !cleared) return std::unexpected(cleared.error());

  UniqueFd listener = unix_socket();
  UniqueFd wakeup(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  // Linux creates the socket file with the mode of the unbound socket, so there
  // is no moment at which others could connect.
  if (!listener || !wakeup || ::fchmod(listener.get(), 0600) != 0 ||
      ::bind(listener.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address) != 0 ||
      ::listen(listener.get(), most_connections) != 0) {
    return fail_errno(errno, fmt::format("control socket {}: cannot listen", socket_path));
  }
  auto control = std::unique_ptr<ControlServer>(new ControlServer(
      socket_path, std::move(routes), std::move(listener), std::move(wakeup)));
  control->thread_ = start_quiet_thread(
      "control", [self = control.get(), on_thread = std::move(on_thread)] {
        if (on_thread) on_thread();
        self->accept_all();
      });
  return control;
}

ControlServer::~ControlServer() {
  stopping_ = true;
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(wakeup_.get(), &one, sizeof one);
  if (thread_.joinable()) thread_.join();
  for (Connection& connection : connections_) {
    ::shutdown(connection.socket.get(), SHUT_RD);  // who has not asked yet is not waited for
    connection.thread.join();
  }
  ::unlink(socket_path_.c_str());
}

void ControlServer::accept_all() {
  while (!stopping_) {
    const bool full = connections_.size() >= most_connections;
    std::array<pollfd, 2> events{
        {{wakeup_.get(), POLLIN, 0}, {full ? -1 : listener_.get(), POLLIN, 0}}};
    if (::poll(events.data(), events.size(), -1) < 0) continue;
    std::uint64_t count = 0;
    [[maybe_unused]] const auto got = ::read(wakeup_.get(), &count, sizeof count);
    std::erase_if(connections_, [](Connection& connection) {
      if (connection.ended) connection.thread.join();
      return connection.ended.load();
    });
    if (events[1].revents != 0) accept_one();
  }
}

void ControlServer::accept_one() {
  UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!socket) return;
  const timeval limit{.tv_sec = patience};
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  Connection& connection = connections_.emplace_back();
  connection.socket = std::move(socket);
  try {
    connection.thread = start_quiet_thread("control", [this, &connection] {
      converse(connection.socket.get());
      ::shutdown(connection.socket.get(), SHUT_RDWR);
      connection.ended = true;
      const std::uint64_t one = 1;
      [[maybe_unused]] const auto written = ::write(wakeup_.get(), &one, sizeof one);
    });
  } catch (const std::system_error& error) {  // no thread is left
    log().warn("control socket {}: {}", socket_path_, error.what());
    connections_.pop_back();
  }
}

void ControlServer::converse(int socket) const {
  HttpReader reader(HttpReader::Kind::request, body_limit);
  const auto received = receive_all(socket, reader);
  const HttpMessage& message = reader.message();
  if (received) {
    send_all(socket, answer({message.method, message.path, {}, message.parameters, message.body}));
  } else if (received.error().kind == ErrorKind::invalid_argument) {
    send_all(socket, error_text({ErrorKind::invalid_argument, EINVAL,
                                 "the request was refused: " + received.error().message}));
  }  // else nobody waits any more
}

std::string ControlServer::answer(const ControlRequest& asked) const {
  for (const ControlRoute& route : routes_) {
    auto name = match(route, asked.method, asked.path);
    if (!name) continue;
    ControlRequest request = asked;
    request.name = std::move(*name);
    std::string cause = "unknown";
    try {
      const auto reply = route.handle(request);
      if (!reply) return error_text(reply.error());
      return response_text(200, reply->content_type, reply->body);
    } catch (const std::exception& exception) {
      cause = exception.what();
    } catch (...) {
    }
    return error_text({ErrorKind::io, EIO,
                       fmt::format("{} {}: internal error: {}", asked.method, asked.path, cause)});
  }
  return error_text({ErrorKind::not_found, ENOENT,
                     fmt::format("{} {}: there is no such route", asked.method, asked.path)});
}

Result<ControlClient> ControlClient::connect(const std::string& socket_path) {
  if (auto answered = connect_to(socket_path); !answered) return std::unexpected(answered.error());
  return ControlClient(socket_path);
}

Result<std::string> ControlClient::request(const std::string& method, const std::string& path,
                                           const std::map<std::string, std::string>& parameters,
                                           const std::string& body) const {
  const auto lost = [&](const std::string& why) {
    return fail(ErrorKind::io, "control socket {}: {} {} got no answer ({}); is its program alive?",
                socket_path_, method, path, why);
  };
  auto socket = connect_to(socket_path_);
  if (!socket) return std::unexpected(socket.error());
  if (!send_all(socket->get(), request_text(method, path, parameters, body)))
    return lost(std::strerror(errno));
  // A handler may work as long as it needs: a program that dies closes the connection,
  // which ends the wait at once.
  HttpReader reader(HttpReader::Kind::response, reply_limit);
  if (const auto received = receive_all(socket->get(), reader); !received)
    return lost(received.error().message);
  const HttpMessage& reply = reader.message();
  if (reply.status == 200) return reply.body;
  if (auto error = error_in(reply.body)) return std::unexpected(std::move(*error));
  return fail(ErrorKind::io, "control socket {}: {} {} was answered with status {}", socket_path_,
              method, path, reply.status);
}

}  // namespace tidepool
