// A virtual machine's driver of virtio-scsi, as far as a load needs one: one request queue
// before a vhost-user back end (Virtual I/O Device 1.2, sections 2.7 and 5.6.6).
//
// Every request has its descriptors, header and data at a place of its own, so that the
// driver does next to nothing. What is written is the same again and again.
#pragma once

#include <memory>

#include "base/result.h"
#include "tests/bench/peer.h"

namespace tidepool::bench {

// job.uri: "vhost-user:" and the socket's path. Unit 0, with blocks of 512 bytes; at most
// 64 requests at a time. The job outlives it.
Result<std::unique_ptr<Peer>> open_scsi_queue(const Job& job);

}  // namespace tidepool::bench
