// A session with a server as a BlockStore: channels, and the map.
//
// Each channel has a lane of its own, on its loop, where the server lets a flush on one
// connection cover the writes of all; else all channels share one, on a thread of the
// store's.
#pragma once

#include <memory>

#include "blockdev/block_store.h"
#include "blockdev/stores/remote_session.h"

namespace tidepool::blockdev {

std::shared_ptr<BlockStore> make_remote_store(std::unique_ptr<RemoteSession> session);

}  // namespace tidepool::blockdev
