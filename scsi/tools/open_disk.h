// Where a logical unit's bytes are: the one place that knows the kinds of stores.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "base/result.h"
#include "blockdev/block_store.h"
#include "blockdev/lease/lease.h"
#include "blockdev/lease/shared_lease.h"
#include "scsi/reservation_file.h"

namespace tidepool::scsi::tools {

struct Disk {
  // One of them, or none; outlives the store.
  std::unique_ptr<blockdev::lease::Lease> lease;
  std::unique_ptr<blockdev::lease::SharedLease> shared;
  std::shared_ptr<blockdev::BlockStore> store;
  std::unique_ptr<ReservationStorage> reservations;
};

struct DiskOptions {
  bool read_only = false;
  // Of a disk on NFS that can be written: the lease beside it; 0: none.
  std::chrono::milliseconds lease{15'000};
  bool shared = false;  // other hosts serve it, too: on NFS, to be written, with a lease
  bool wait = false;    // until its owner is gone
  int stop = -1;        // a descriptor: ends the waiting once it is readable
};

// name: a path of a file or block device, or an NFS URI.
Result<Disk> open_disk(const std::string& name, const DiskOptions& options);

}  // namespace tidepool::scsi::tools
