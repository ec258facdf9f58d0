// A file on an NFS server as a BlockStore, by libnfs: versions 3 and 4.
//
// Each channel has a connection of its own, on its loop. Writes are unstable, a flush is a
// COMMIT; a write with force_unit_access is a stable one. A changed write verifier shows that
// the server was restarted and may have lost what was unstable: then all of that is sent
// again, from memory, before anything else is.
//
// A lost connection is no error: requests wait, the store reconnects without end (or
// RemoteOptions::give_up_after) and sends again what was not answered. So an outage of the
// server stalls requests, and nothing else: the waiting is in user space.
//
// Neither version can make holes: discard and zero write zeros, so that geometry() denies
// can_discard; allocate is EOPNOTSUPP; the map shows all as data. The size is what it was
// when the store was opened, rounded down to 512 bytes.
//
// Limits: a request that hangs in a server that keeps its connection waits as long as it
// does. A request that a lost connection carried may still be carried out, at any later time,
// by a server that lives on (remote_session.h). Names are looked up in the DNS without a limit
// of ours in time. The identity is AUTH_SYS: user and group numbers, no encryption.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "blockdev/block_store.h"
#include "blockdev/stores/nfs_uri.h"
#include "blockdev/stores/remote_options.h"

namespace tidepool::blockdev {

struct NfsStore {
  std::shared_ptr<BlockStore> store;
  std::int64_t changed_ns =
      0;  // of the content, when it was opened: since 1970, by the server's clock
};

// Connects once, blocking. Errors name the URI and what the server said.
Result<NfsStore> open_nfs_file(const std::string& uri, const RemoteOptions& options);
Result<std::shared_ptr<BlockStore>> open_nfs_store(const std::string& uri,
                                                   const RemoteOptions& options);

}  // namespace tidepool::blockdev
