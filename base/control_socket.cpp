#include "base/control_socket.h"

#include <httplib.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <exception>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/quiet_thread.h"
#include "base/unique_fd.h"
#include "base/unix_address.h"

namespace tidepool {
namespace {

using nlohmann::json;

constexpr std::size_t body_limit = 1024 * 1024;  // bytes
constexpr std::size_t worker_threads = 4;
// httplib asks for a port even where the address family has none.
constexpr int no_port = 80;
// A handler may work as long as it needs: a program that dies closes the
// connection, which ends the wait at once.
constexpr std::chrono::hours reply_patience{24};

struct KindRow {
  ErrorKind kind;
  const char* name;
  int status;
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

void reply_error(httplib::Response& response, int status, const char* kind, int errno_value,
                 const std::string& message) {
  const json body = {{"error", {{"kind", kind}, {"errno", errno_value}, {"message", message}}}};
  response.status = status;
  response.set_content(body.dump(-1, ' ', false, json::error_handler_t::replace) + "\n",
                       "application/json");
}

void reply_error(httplib::Response& response, const Error& error) {
  const KindRow& row = row_of(error.kind);
  reply_error(response, row.status, row.name, error.errno_value, error.message);
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

// Succeeds when a program listens on the socket.
Result<> probe(const std::string& path) {
  const auto address = unix_address(path);
  if (!address) return std::unexpected(address.error());
  const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return fail_errno(errno, "control socket: cannot create a socket");
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address) == 0)
    return {};
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
  if (probe(path))
    return fail(ErrorKind::busy, "control socket {}: another program answers there; stop it first",
                path);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT)
    return fail_errno(errno,
                      fmt::format("control socket {}: cannot remove the one left behind", path));
  return {};
}

ControlRequest request_of(const httplib::Request& request) {
  ControlRequest out{request.method, request.path, {}, {}, request.body};
  if (request.matches.size() > 1) out.name = request.matches[1].str();
  for (const auto& [key, value] : request.params) out.parameters.emplace(key, value);
  return out;
}

// httplib takes a regular expression; our paths have only '*' and '.' in them
// that would mean something there.
std::string pattern_of(const std::string& path) {
  std::string pattern;
  for (const char c : path) {
    if (c == '*')
      pattern += "([^/]+)";
    else if (c == '.')
      pattern += "\\.";
    else
      pattern += c;
  }
  return pattern;
}

void add_route(httplib::Server& server, ControlRoute route) {
  const std::string pattern = pattern_of(route.path);
  const std::string method = route.method;
  const httplib::Server::Handler handler =
      [route = std::move(route)](const httplib::Request& request, httplib::Response& response) {
        auto reply = route.handle(request_of(request));
        if (!reply) return reply_error(response, reply.error());
        response.set_content(std::move(reply->body), reply->content_type);
      };
  if (method == "PUT")
    server.Put(pattern, handler);
  else if (method == "POST")
    server.Post(pattern, handler);
  else
    server.Get(pattern, handler);
}

void answer_failures(httplib::Server& server) {
  server.set_exception_handler(
      [](const httplib::Request& request, httplib::Response& response, std::exception_ptr thrown) {
        std::string cause = "unknown";
        try {
          std::rethrow_exception(thrown);
        } catch (const std::exception& exception) {
          cause = exception.what();
        } catch (...) {
        }
        reply_error(response, Error{ErrorKind::io, EIO,
                                    fmt::format("{} {}: internal error: {}", request.method,
                                                request.path, cause)});
      });
  server.set_error_handler(
      httplib::Server::Handler([](const httplib::Request& request, httplib::Response& response) {
        if (!response.body.empty()) return;
        const bool unknown = response.status == 404;
        reply_error(response, response.status, unknown ? "not_found" : "invalid_argument",
                    unknown ? ENOENT : EINVAL,
                    fmt::format("{} {}: {}", request.method, request.path,
                                unknown ? "there is no such route"
                                        : "the request was refused as malformed"));
      }));
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

std::string encode_path(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '.' || c == '_' || c == '~' || c == '/';
    if (plain)
      out += c;
    else
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

ControlServer::ControlServer(std::string socket_path, std::unique_ptr<httplib::Server> server)
    : socket_path_(std::move(socket_path)), server_(std::move(server)) {}

Result<std::unique_ptr<ControlServer>> ControlServer::start(const std::string& socket_path,
                                                            std::vector<ControlRoute> routes,
                                                            std::function<void()> on_thread) {
  if (const auto address = unix_address(socket_path); !address)
    return std::unexpected(address.error());
  const auto directory = std::filesystem::path(socket_path).parent_path();
  if (!directory.empty() && ::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST)
    return fail_errno(
        errno, fmt::format("control socket {}: cannot create {}", socket_path, directory.string()));
  if (auto cleared = clear_path(socket_path); !cleared) return std::unexpected(cleared.error());

  auto server = std::make_unique<httplib::Server>();
  server->set_address_family(AF_UNIX);
  // Linux creates the socket file with the mode of the unbound socket, so there
  // is no moment at which others could connect.
  server->set_socket_options([](socket_t fd) { ::fchmod(fd, 0600); });
  server->set_keep_alive_max_count(1);
  server->set_payload_max_length(body_limit);
  server->new_task_queue = [] { return new httplib::ThreadPool(worker_threads); };
  answer_failures(*server);
  for (ControlRoute& route : routes) add_route(*server, std::move(route));
  errno = 0;
  if (!server->bind_to_port(socket_path, no_port))
    return fail_errno(errno != 0 ? errno : EIO,
                      fmt::format("control socket {}: cannot listen", socket_path));

  auto control = std::unique_ptr<ControlServer>(new ControlServer(socket_path, std::move(server)));
  control->thread_ = start_quiet_thread(
      "control", [http = control->server_.get(), on_thread = std::move(on_thread)] {
        if (on_thread) on_thread();
        http->listen_after_bind();
      });
  // stop() before the loop runs would be lost.
  while (!control->server_->is_running()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return control;
}

ControlServer::~ControlServer() {
  server_->stop();
  if (thread_.joinable()) thread_.join();
  ::unlink(socket_path_.c_str());
}

Result<ControlClient> ControlClient::connect(const std::string& socket_path) {
  if (auto answered = probe(socket_path); !answered) return std::unexpected(answered.error());
  return ControlClient(socket_path);
}

Result<std::string> ControlClient::request(const std::string& method, const std::string& path,
                                           const std::map<std::string, std::string>& parameters,
                                           const std::string& body) const {
  httplib::Request request;
  request.method = method;
  request.path = encode_path(path);
  char separator = '?';
  for (const auto& [key, value] : parameters) {
    request.path += separator + encode_path(key) + '=' + encode_path(value);
    separator = '&';
  }
  request.set_header("Host", "localhost");
  if (!body.empty() || method != "GET") {
    request.body = body;
    request.set_header("Content-Type", "application/json");
  }
  httplib::ClientImpl client(socket_path_, no_port);
  client.set_address_family(AF_UNIX);
  client.set_url_encode(false);
  client.set_read_timeout(reply_patience);
  const httplib::Result reply = client.send(request);
  if (!reply)
    return fail(ErrorKind::io, "control socket {}: {} {} got no answer ({}); is its program alive?",
                socket_path_, method, path, httplib::to_string(reply.error()));
  if (reply->status == 200) return reply->body;
  if (auto error = error_in(reply->body)) return std::unexpected(std::move(*error));
  return fail(ErrorKind::io, "control socket {}: {} {} was answered with status {}", socket_path_,
              method, path, reply->status);
}

}  // namespace tidepool
