// The FUSE connection: mount, INIT, decoding, unmount.
//
// libfuse mounts and decodes; requests come from the workers' transports and its
// replies go back through them (fuse_session_custom_io). INIT and OPEN replies are
// amended on the way with what the kernel offers and this libfuse has no field for.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "fs/fuse/cached_writers.h"
#include "fs/fuse/mount_options.h"
#include "fs/fuse/open_files.h"
#include "fs/fuse/transport.h"
#include "fs/fuse/worker.h"
#include "fs/pool/pool.h"
#include "fs/sockets/disk_sockets.h"

struct fuse_session;
struct fuse_conn_info;

namespace tidepool::elasticfs {

class Session : public Receiver {
 public:
  // Mounts. `disconnected` is called once, from a worker's thread, when the file
  // system was unmounted. Pool, users and sockets outlive the session; sockets may be null.
  static Result<std::unique_ptr<Session>> mount(pool::Pool& pool, const MountOptions& options,
                                                DiskUsers& users, DiskSockets* sockets,
                                                std::function<void()> on_disconnect);
  ~Session();
  // Takes the mount away (lazily when it is busy), ends the workers.
  void stop();

  pool::Pool& pool() { return pool_; }
  const MountOptions& options() const { return options_; }
  CachedWriters& cached_writers() { return cached_writers_; }
  DiskUsers& disk_users() { return disk_users_; }
  OpenFiles<OpenDisk>& open_disks() { return open_disks_; }
  OpenFiles<Listing>& listings() { return listings_; }
  void close(OpenDisk& disk);  // the last the kernel, or the session's end, does with it
  // A node's name, owner or mode changed, or it came or went: before the answer says so.
  void node_changed(pool::NodeId node) {
    if (disk_sockets_ != nullptr) disk_sockets_->refresh(node);
  }
  void initialize(fuse_conn_info& connection);  // the INIT operation
  // The kernel will ask for the node's attributes when it next needs them.
  void forget_attributes(pool::NodeId node);

  // The reply being built will open a file for direct I/O: parallel writes.
  static thread_local bool opening_direct;

  void receive(Exchange& exchange, std::span<std::byte> message) override;
  void disconnected() override;

 private:
  Session(pool::Pool& pool, const MountOptions& options, DiskUsers& users, DiskSockets* sockets,
          std::function<void()> on_disconnect)
      : pool_(pool),
        options_(options),
        disk_users_(users),
        disk_sockets_(sockets),
        on_disconnect_(std::move(on_disconnect)),
        cached_writers_(pool, options.mountpoint) {}
  static ssize_t reply(int fd, iovec* parts, int count, void* user_data);
  void amend_init(iovec* parts, int count);
  Result<> start_workers();
  void unmount();

  pool::Pool& pool_;
  const MountOptions options_;
  DiskUsers& disk_users_;
  DiskSockets* const disk_sockets_;
  std::function<void()> on_disconnect_;
  CachedWriters cached_writers_;
  OpenFiles<OpenDisk> open_disks_;
  OpenFiles<Listing> listings_;
  std::atomic<bool> disconnected_{false};
  fuse_session* session_ = nullptr;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::uint64_t offered_ = 0;  // INIT flags of the kernel
  bool queues_agreed_ = false;
};

}  // namespace tidepool::elasticfs
