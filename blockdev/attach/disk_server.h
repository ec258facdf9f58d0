// An nbdkit that serves one file on a private Unix socket, as a child process.
//
// It runs in a session of its own, so that a terminal's signals reach only its
// supervisor, and outlives that supervisor: a device goes on without it.
//
// Limits: blocking; one thread, that which started it.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "blockdev/attach/target.h"

namespace tidepool::blockdev::attach {

struct ServerPlan {
  Target target;  // chain or raw
  bool read_only = false;
  // Every write is stable before it is answered. Without it a chain's server that is
  // killed loses writes that it answered and that no flush covered.
  bool write_through = false;
  std::string plugin;  // the chain's plugin, as nbdkit takes it: a name or a path
};

// nbdkit's command line, without the options that say where it listens.
std::vector<std::string> server_command(const ServerPlan& plan);

class DiskServer {
 public:
  // Listening on `directory`/socket when it returns; its messages are appended to
  // `directory`/log. The process is killed by the destructor unless it was stopped.
  static Result<DiskServer> start(const ServerPlan& plan, const std::filesystem::path& directory);
  DiskServer(DiskServer&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}
  DiskServer& operator=(DiskServer&& other) noexcept;
  ~DiskServer() { kill(); }

  pid_t pid() const { return pid_; }
  bool is_running();
  void stop(std::chrono::seconds patience);  // it ends what it does, and is killed after that
  void kill();                               // nothing of it runs any more when this returns

 private:
  explicit DiskServer(pid_t pid) : pid_(pid) {}

  pid_t pid_;  // -1: it has ended
};

// The last line of a server's messages, for an error; without nbdkit's own prefix.
std::string last_message(const std::filesystem::path& directory);

}  // namespace tidepool::blockdev::attach
