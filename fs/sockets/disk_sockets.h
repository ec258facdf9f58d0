// Each disk of a mounted pool on a vhost-user-blk socket: DIRECTORY/VM/DISK, beside the
// file MOUNTPOINT/VM/DISK. A VM's requests then reach the pool without passing through
// the kernel's FUSE.
//
// The files follow the pool's names: refresh() makes what is there of a VM or a disk what
// the pool says now. A front end that connects is served on a thread of its own until it
// goes, also when its disk has lost its name meanwhile; the disk has the size that it had
// when the front end came. Who may connect is said by socket_mode.h, and what else may
// use the disk meanwhile by disk_users.h.
//
// Front ends are not trusted: their memory must be sealed against shrinking, their
// messages are checked, and none of them is waited for by anybody else.
//
// Limits: one front end a disk; a socket's path has at most 107 bytes, so a disk with a
// very long name has none (which is logged).
#pragma once

#include <atomic>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/unique_fd.h"
#include "fs/pool/pool.h"
#include "fs/sockets/disk_users.h"

namespace tidepool::elasticfs {

class DiskSockets {
 public:
  // Takes the directory (busy: another daemon has it), makes it if it is missing, removes
  // sockets that a dead daemon left, and makes those of the pool's disks. Front ends wait
  // until serve(). Pool and users outlive it.
  static Result<std::unique_ptr<DiskSockets>> open(pool::Pool& pool, DiskUsers& users,
                                                   const std::string& directory);
  ~DiskSockets();
  DiskSockets(const DiskSockets&) = delete;
  DiskSockets& operator=(const DiskSockets&) = delete;

  // Serves front ends from now on. While there is one, `mountpoint` is kept in use, so that
  // the file system is not taken away under it.
  void serve(const std::string& mountpoint);
  // Ends the front ends' connections; none is served any more.
  void stop();

  // The node was made, removed, renamed, or its owner or mode changed. Any thread.
  void refresh(pool::NodeId node);

 private:
  struct Listener {
    UniqueFd socket;
    pool::NodeId vm = 0;
    std::string name;  // of the file in the VM's directory
  };
  struct Connection {
    UniqueFd socket;  // the same socket that the back end has: to end it
    std::atomic<bool> ended{false};
    std::thread thread;
  };
  DiskSockets(pool::Pool& pool, DiskUsers& users, std::string directory, UniqueFd descriptor)
      : pool_(pool),
        users_(users),
        directory_(std::move(directory)),
        descriptor_(std::move(descriptor)) {}

  // All with mutex_ held.
  Result<> refresh_node(pool::NodeId node);
  Result<> refresh_vm(const pool::Attributes& vm);
  Result<> refresh_disk(const pool::Attributes& disk);
  Result<> listen(Listener& listener, pool::NodeId disk, const pool::Attributes& attributes,
                  const pool::Attributes& vm);
  void remove_disk(pool::NodeId disk);
  void remove_vm(pool::NodeId vm);
  std::string place(const Listener& listener) const;  // below the directory

  void accept_all();
  void accept_one(pool::NodeId disk);
  void reap();
  void serve_one(pool::NodeId disk, UniqueFd socket);

  // Constant after construction.
  pool::Pool& pool_;
  DiskUsers& users_;
  const std::string directory_;  // for messages
  const UniqueFd descriptor_;    // of the directory, locked
  UniqueFd events_, wakeup_;     // epoll; its eventfd, by which stop() ends the thread
  std::string mountpoint_;       // since serve()

  std::mutex mutex_;  // guards what follows; the pool's lock may be taken under it
  std::map<pool::NodeId, std::string> vms_;
  std::map<pool::NodeId, Listener> listeners_;

  std::atomic<bool> stopping_{false};
  std::list<Connection> connections_;  // the accepting thread's
  std::thread thread_;
};

}  // namespace tidepool::elasticfs
