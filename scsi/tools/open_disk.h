// Where a logical unit's bytes are: the one place that knows the kinds of stores.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "blockdev/block_store.h"
#include "scsi/reservation_file.h"

namespace tidepool::scsi::tools {

struct Disk {
  std::shared_ptr<blockdev::BlockStore> store;
  std::unique_ptr<ReservationStorage> reservations;
};

// name: a path of a file or block device, or an NFS URI.
Result<Disk> open_disk(const std::string& name, bool read_only);

}  // namespace tidepool::scsi::tools
