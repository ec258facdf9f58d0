// A live pool's control service: the requests of PoolControl over HTTP on the
// pool's control socket (base/control_socket.h).
//
//   GET  /v1/info  /v1/list  /v1/stat              JSON (pool_json.h)
//   GET  /v1/map?disk=vm1/scratch.img              JSON
//   GET  /v1/metrics                               Prometheus text
//   PUT  /v1/vm/NAME   {"quota", "reserve", "durability"}   any of them
//   POST /v1/grow      {"size"}
//
// A dump is made of these by the client, disk by disk: the daemon, which lives under
// other file systems, holds no more than one disk's map as text.
//
// The socket's name is the pool's UUID, so that the pool file alone leads to it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "fs/control/pool_control.h"

namespace tidepool::control {

class ControlService {
 public:
  const std::string& socket_path() const { return server_->socket_path(); }

 private:
  friend Result<std::unique_ptr<ControlService>> start_control(pool::Pool&, blockdev::FileStore&,
                                                               PoolContext);
  ControlService(pool::Pool& pool, blockdev::FileStore& store, PoolContext context)
      : control_(pool, store, std::move(context)) {}

  LocalControl control_;
  std::unique_ptr<ControlServer> server_;  // last: its handlers use control_
};

// Serves the pool until the service is destroyed, which must come before the
// pool's end. Call it after the last fork: the service has threads.
Result<std::unique_ptr<ControlService>> start_control(pool::Pool& pool, blockdev::FileStore& store,
                                                      PoolContext context);

// Where the service of a pool listens: $ELASTICFS_RUN/UUID.sock; without that
// variable in /run/elasticfs for root, in $XDG_RUNTIME_DIR/elasticfs (or
// /tmp/elasticfs-UID) for others.
std::string control_socket_path(const std::string& uuid);
// Where it may be found: there, or (for others than root) at root's place.
std::vector<std::string> control_socket_candidates(const std::string& uuid);

}  // namespace tidepool::control
