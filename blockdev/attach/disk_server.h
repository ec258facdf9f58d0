// An nbdkit that serves one file on a private Unix socket.
//
// It runs in a session of its own, so that a terminal's signals reach only its
// supervisor, and outlives that supervisor: a device goes on without it. nbdkit 1.32
// in the foreground ends with its parent, so it is made a child of init, and is known
// here by its pidfd.
//
// Limits: blocking; one thread at a time; needs Linux 5.3.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
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
  DiskServer(DiskServer&&) noexcept = default;
  DiskServer& operator=(DiskServer&& other) noexcept;
  ~DiskServer() { kill(); }

  pid_t pid() const { return pid_; }
  bool is_running() const;
  void stop(std::chrono::seconds patience);  // it ends what it does, and is killed after that
  void kill();                               // nothing of it runs any more when this returns

 private:
  DiskServer(pid_t pid, UniqueFd process) : pid_(pid), process_(std::move(process)) {}
  bool ends_within(std::chrono::milliseconds patience) const;

  pid_t pid_;
  UniqueFd process_;  // its pidfd; none: moved from
};

// The last line of a server's messages, for an error; without nbdkit's own prefix.
std::string last_message(const std::filesystem::path& directory);

}  // namespace tidepool::blockdev::attach
