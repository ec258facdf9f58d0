// An NBD export as a BlockStore, by libnbd.
//
// Each channel has a connection of its own, on its loop, where the server says that a
// flush on one covers all (multi-conn); else all channels share one, on a thread of the
// store's.
//
// A lost connection is no error: requests wait, the store reconnects without end (or
// RemoteOptions::give_up_after) and sends again what was not answered, after all that was
// answered since the last flush, which the server may have lost. So what it wrote is
// kept in memory until it is flushed (RemoteOptions::unflushed_limit; more makes the store
// flush by itself). A server that is back with another size or with fewer abilities
// is refused: then all requests fail.
//
// discard and zero are the protocol's write-zeroes, as a trim does not promise zeros;
// where the server has none, zeros are written. allocate is EOPNOTSUPP.
//
// Limits: a server that cannot flush is taken at its word, its answers count as stable.
// A request that hangs in a server that keeps its connection waits as long as it does.
// A request that a lost connection carried may still reach a server that lives on
// (remote_session.h). Names are looked up in the DNS without a limit of ours in time.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "blockdev/block_store.h"
#include "blockdev/stores/remote_options.h"

namespace tidepool::blockdev {

// nbd://, nbds://, and both with +unix or +vsock.
bool is_nbd_uri(std::string_view text);

// Connects once, blocking. The URI may name files with keys (tls-certificates,
// tls-psk-file). Errors name the URI and what the server said.
Result<std::shared_ptr<BlockStore>> open_nbd_store(const std::string& uri,
                                                   const RemoteOptions& options);

}  // namespace tidepool::blockdev
