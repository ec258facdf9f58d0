// A lease on a disk that several hosts can reach: whoever has it may write.
//
// A thread renews it in the lock directory beside the disk; permit() is asked before each
// write. An owner that was stopped, or cut off from the server, finds its lease over before
// it writes again, waits until a renewal succeeds, and gives up for good once somebody else
// has claimed it.
//
// Limits: lease_format.md. Servers do not know of the lease: what was sent while it was
// valid may arrive later.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "base/result.h"
#include "base/unique_fd.h"
#include "blockdev/directory.h"
#include "blockdev/lease/lease_state.h"
#include "blockdev/lease/shared_format.h"
#include "blockdev/stores/remote_options.h"

namespace tidepool::blockdev::lease {

struct LeaseOptions {
  LeaseTerms terms;
  std::string disk;   // for messages
  std::string host;   // who takes it, for people
  bool wait = false;  // for an owner that lives; else that is ErrorKind::busy
  int stop = -1;      // a descriptor: what blocks ends with ErrorKind::busy once it is readable
  LeaseState::Sabotage sabotage;
};

class Lease {
 public:
  // The lock directory, whose calls take no longer than `patience` and end when `stop` is
  // readable.
  using OpenDirectory =
      std::function<std::unique_ptr<Directory>(std::chrono::milliseconds patience, int stop)>;

  // Blocking: at once when nobody has it; twice duration + margin when its owner is gone.
  static Result<std::unique_ptr<Lease>> take(OpenDirectory open, const LeaseOptions& options);
  // Stops renewing, waits for no server.
  ~Lease();
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  WritePermit permit() const;  // any thread
  std::uint64_t token() const { return token_; }
  // The last state of hosts that shared the disk, unless an owner has dropped it since: once what
  // is in it is kept elsewhere. Blocking.
  const std::optional<SharedState>& inherited() const { return inherited_; }
  Result<> drop_inheritance();
  // Every write has been answered, and none is sent any more: the next owner need not wait.
  // Best effort, for at most a second.
  void release();

 private:
  Lease(OpenDirectory open, const LeaseOptions& options);
  Result<> acquire();
  Result<> perform(const LeaseState::Step& step);
  Result<Sight> look();
  Result<Sight> look_once();
  bool pause_until(Time at, int stop);
  void publish();
  void keep();
  void end();

  const OpenDirectory open_;
  const LeaseOptions options_;
  const UniqueFd stop_;  // eventfd: the thread is to end

  // The thread's, before it runs acquire()'s.
  std::unique_ptr<Directory> directory_;
  LeaseState state_;
  bool tidied_ = false;

  std::uint64_t token_ = 0;                   // constant once taken
  std::optional<SharedState> inherited_;      // the same
  std::atomic<std::int64_t> valid_until_{0};  // Time
  std::atomic<bool> over_{false};             // lost or released
  std::thread thread_;
};

}  // namespace tidepool::blockdev::lease
