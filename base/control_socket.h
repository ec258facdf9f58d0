// A program's control surface: HTTP with JSON over a Unix socket.
//
// The server answers on its own threads, one for each connection, with every signal
// blocked, so a signal still reaches the program's own loop. The socket file belongs to the starting
// user alone (mode 0600); whoever can open it may use every route. The file that
// a dead program left behind is replaced; one that is answered is not.
//
// An Error of a handler travels as its HTTP status and as JSON
// {"error": {"kind", "errno", "message"}}, and is the same Error at the client.
//
// Limits: one request per connection, 16 connections at one time, the others wait; requests
// of up to 1 MiB; no streaming.
#pragma once

#include <atomic>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/http_message.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace tidepool {

struct ControlRequest {
  std::string method;                             // "GET", "PUT" or "POST"
  std::string path;                               // decoded, without the parameters
  std::string name;                               // what the route's "*" stands for
  std::map<std::string, std::string> parameters;  // after the '?', decoded
  std::string body;
};

struct ControlReply {
  std::string body;
  std::string content_type = "application/json";
};

struct ControlRoute {
  std::string method;  // "GET", "PUT" or "POST"
  std::string path;    // exact, or ending in "/*": one more component, of any bytes but '/'
  // Called on one of the server's threads, several at a time.
  std::function<Result<ControlReply>(const ControlRequest&)> handle;
};

class ControlServer {
 public:
  // Listening when it returns. The socket's directory is created (0700) if
  // missing. A socket that another program answers on is ErrorKind::busy.
  // on_thread: called on the first of the server's threads, which makes the others.
  static Result<std::unique_ptr<ControlServer>> start(const std::string& socket_path,
                                                      std::vector<ControlRoute> routes,
                                                      std::function<void()> on_thread = {});
  ~ControlServer();  // waits for the running handlers, removes the socket file
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  const std::string& socket_path() const { return socket_path_; }

 private:
  struct Connection {
    UniqueFd socket;
    std::thread thread;
    std::atomic<bool> ended = false;
  };
  ControlServer(std::string socket_path, std::vector<ControlRoute> routes, UniqueFd listener,
                UniqueFd wakeup);
  void accept_all();
  void accept_one();
  void converse(int socket) const;
  std::string answer(const ControlRequest& request) const;

  const std::string socket_path_;
  const std::vector<ControlRoute> routes_;
  const UniqueFd listener_;
  const UniqueFd wakeup_;  // eventfd: a connection ended, or the server is to
  std::atomic<bool> stopping_ = false;
  std::list<Connection> connections_;  // the first thread's, until that has ended
  std::thread thread_;
};

class ControlClient {
 public:
  // not_found: no socket file, or its program is gone; permission: not ours.
  static Result<ControlClient> connect(const std::string& socket_path);

  // The reply's body, or the Error that the handler returned.
  Result<std::string> request(const std::string& method, const std::string& path,
                              const std::map<std::string, std::string>& parameters = {},
                              const std::string& body = {}) const;
  const std::string& socket_path() const { return socket_path_; }

 private:
  explicit ControlClient(std::string socket_path) : socket_path_(std::move(socket_path)) {}
  std::string socket_path_;
};

// Where the sockets of `program` are: what the environment variable PROGRAM_RUN
// says ('_' for '-'), /run/PROGRAM for root, else a directory of the user's.
std::string control_directory(const std::string& program);

}  // namespace tidepool
