// What a store's error is to an initiator: errno in, sense data out, by a table.
//
// An errno that the table does not know is a medium error: whatever fails is never
// answered with GOOD.
#pragma once

#include "blockdev/block_store.h"
#include "scsi/sense.h"

namespace tidepool::scsi {

// error: positive.
Sense sense_of_store_error(int error, blockdev::IoOp op);

}  // namespace tidepool::scsi
