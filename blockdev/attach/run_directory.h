// What an attachment leaves for others to see: /run/nbd-attach/nbdN/
//
//   lock        locked by the supervising process for as long as it lives
//   state       JSON, replaced by renaming
//   socket      of the disk's server, if it has one of its own
//   log         messages of supervisor and server
//   detaching   made by who detaches: what ends now is not to be brought back
//
// Mode 0700: who reaches the socket reaches the disk. The directory has a name of
// its own until the device is known.
//
// Limits: the lock is a POSIX one, by process: make the directory after the last fork.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace tidepool::blockdev::attach {

struct AttachmentState {
  std::uint32_t index = 0;  // of /dev/nbdN
  std::string kind;         // "chain", "raw", "uri"
  std::string target;
  std::string backend;  // what the kernel knows this attachment by
  std::uint64_t size = 0;  // bytes
  unsigned connections = 0;
  bool read_only = false;
  std::string state = "attached";  // "reconnecting", "failed"; to readers also "unsupervised"
  std::string message;             // what is wrong, if something is
  unsigned reconnects = 0;
  pid_t pid = 0;         // of the supervisor
  pid_t server_pid = 0;  // 0: no server of its own
};

// As --list shows it.
nlohmann::json to_json(const AttachmentState& state);

class RunDirectory {
 public:
  static Result<RunDirectory> create();
  RunDirectory(RunDirectory&& other) noexcept
      : path_(std::exchange(other.path_, {})), lock_(std::move(other.lock_)) {}
  RunDirectory& operator=(RunDirectory&&) = delete;
  ~RunDirectory();  // removes it

  const std::filesystem::path& path() const { return path_; }
  Result<> name_after(std::uint32_t index);  // the device is ours: so is its name
  void write(const AttachmentState& state) const;
  bool is_detaching() const;

 private:
  RunDirectory(std::filesystem::path path, UniqueFd lock)
      : path_(std::move(path)), lock_(std::move(lock)) {}

  std::filesystem::path path_;  // empty: moved from
  UniqueFd lock_;
};

// Held while a device and its directory get or lose each other. Blocks.
Result<UniqueFd> lock_all_attachments();

// All that are attached now; with state "unsupervised" and pid 0 where the supervisor is gone.
Result<std::vector<AttachmentState>> list_attachments();

// Marks the device's attachment as being detached, or takes the mark back.
Result<> mark_detaching(std::uint32_t index, bool detaching);

// Ends the server of a supervisor that is gone, and removes what else it left.
void end_left_over(const AttachmentState& attachment);

}  // namespace tidepool::blockdev::attach
