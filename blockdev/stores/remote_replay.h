// Sends to a server what another one was sent and never flushed.
#pragma once

#include "blockdev/stores/remote_link.h"
#include "blockdev/stores/unflushed_log.h"

namespace tidepool::blockdev {

// Blocking: all entries, several at a time, those that overlap in order. ErrorKind::busy:
// the connection ended or `stop` became readable, another connection may do. Else the
// server refused one. The link is closed after a failure.
Result<> send_again(const UnflushedLog& log, RemoteLink& link, const std::string& uri, int stop);

}  // namespace tidepool::blockdev
