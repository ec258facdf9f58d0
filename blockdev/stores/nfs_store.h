// A file on an NFS server as a BlockStore, by libnfs: versions 3 and 4.
//
// Each channel has a connection of its own, on its loop. Writes are unstable, a flush is a
// COMMIT; a write with force_unit_access is a stable one. A changed write verifier shows that
// the server was restarted and may have lost what was unstable: then all of that is sent
// again, from memory, before anything else is. So it is when a COMMIT, or a stable write, fails:
// the server may not try again what it could not store, so that a COMMIT that succeeds later says
// nothing of it.
//
// A lost connection is no error: requests wait, the store reconnects without end (or
// RemoteOptions::give_up_after) and sends again what was not answered. So an outage of the
// server stalls requests, and nothing else: the waiting is in user space.
//
// Discard: version 4, on a server that offers 4.2's DEALLOCATE and did it once when the file was
// opened, behind its end. The space is free on the server, and reads give zeros, once the discard
// is answered; that this stays so after a crash of the server is known after the next flush, as of
// a write, or with force_unit_access; until then it is sent again, in order with the writes
// around it, when the server was restarted. Elsewhere (version 3 has nothing for it) geometry()
// denies can_discard, and discard writes zeros, as zero always does.
// Allocate is EOPNOTSUPP. The map shows as holes what was discarded and not written since this
// store was opened, if it is the sole writer (nfs-ganesha answers SEEK, but not truly); all else
// is data. The size is what it was when the store was opened, rounded down to 512 bytes.
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
