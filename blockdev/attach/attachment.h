// One device attached to one target, and the supervision that keeps it so.
//
// A file is served by an nbdkit of our own; a URI by whoever is there. When a
// connection ends, new ones are made and given to the kernel, which has held back
// new requests and sends again those that were not answered within its timeout: who
// uses the device sees a pause, not an error.
//
// That is right only if no answered write is gone, because the kernel will not send
// it again, and the next flush would be answered by a server that never saw it. So a
// chain's server writes through: it answers a write when it is stable. A raw file's
// server has it in the page cache, which outlives the process. Of a URI's server
// nothing is known. With `reconnect` off nothing is brought back: the device fails,
// and all of its users are told.
//
// Limits: blocking; one thread, with SIGTERM and SIGINT blocked; the server of a
// file must be ready within a minute.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "blockdev/attach/connection.h"
#include "blockdev/attach/disk_server.h"
#include "blockdev/attach/nbd_control.h"
#include "blockdev/attach/run_directory.h"
#include "blockdev/attach/target.h"

namespace tidepool::blockdev::attach {

struct AttachOptions {
  Target target;
  std::optional<std::uint32_t> index;  // N of /dev/nbdN; none: the kernel picks
  unsigned connections = 4;
  std::uint32_t block_size = 512;    // bytes; more if the server's least is more
  std::uint32_t timeout = 30;        // seconds, more than 0
  std::uint32_t dead_timeout = 300;  // seconds that I/O waits for a server
  bool read_only = false;
  bool reconnect = true;
  std::string plugin = "cowchain";  // as nbdkit takes it
};

class Attachment {
 public:
  // The device is ready when it returns. Forks; the calling process is the supervisor.
  static Result<std::unique_ptr<Attachment>> start(const AttachOptions& options);
  // Stops the server. A device that is still attached is disconnected without a flush.
  ~Attachment();

  std::uint32_t index() const { return state_.index; }
  const RunDirectory& directory() const { return directory_; }

  // Until the device is detached, by others or for SIGTERM or SIGINT (which a device
  // in use refuses). An error if it had to be given up.
  Result<> supervise();

 private:
  enum class Wake { lost, signal, time };

  Attachment(const AttachOptions& options, NbdControl control, RunDirectory directory)
      : options_(options), control_(std::move(control)), directory_(std::move(directory)) {}

  Result<> lock_file();
  Result<> start_server();
  std::string uri() const;
  Result<std::vector<Connection>> connect(unsigned count);
  Result<> attach();
  Wake wait(int milliseconds);  // -1: no limit
  bool is_attached() const;
  void publish(const char* state, const std::string& message = {});
  Result<> detach();
  Result<bool> recover();  // false: the device is detached
  Result<> replace_lost();
  Result<> hand_over(Connection connection);
  std::unexpected<Error> give_up(const Error& reason);

  const AttachOptions options_;
  NbdControl control_;
  RunDirectory directory_;
  AttachmentState state_;
  UniqueFd file_lock_;  // of a raw file; a chain locks itself
  UniqueFd signals_;
  std::optional<DiskServer> server_;
  std::vector<Connection> connections_;
  Export offered_;
};

}  // namespace tidepool::blockdev::attach
