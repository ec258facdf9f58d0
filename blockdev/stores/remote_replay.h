// Sends to a server what another one was sent and never flushed.
#pragma once

#include <functional>

#include "blockdev/stores/remote_link.h"
#include "blockdev/stores/remote_options.h"
#include "blockdev/stores/unflushed_log.h"

namespace tidepool::blockdev {

// Blocking: all entries, several at a time, those that overlap in order. ErrorKind::busy:
// the connection ended, `stop` became readable or the permit is not yes: later, on another
// connection. Else the
// server refused one. The link is closed after a failure.
Result<> send_again(const UnflushedLog& log, RemoteLink& link, const std::string& uri, int stop,
                    const std::function<WritePermit()>& permit);

}  // namespace tidepool::blockdev
