// Where reservations that persist through power loss are kept: a file beside the disk.
//
// A seam: tests have their own.
// Limit: both block the caller until the file system answers.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "blockdev/directory.h"
#include "scsi/persistent_reservations.h"

namespace tidepool::scsi {

class ReservationStorage {
 public:
  virtual ~ReservationStorage() = default;
  // Nothing stored: the state of a new logical unit.
  virtual Result<ReservationState> load() = 0;
  // On the helper's thread, one at a time. Stable when it returns. A state that does not persist
  // removes what is stored.
  virtual Result<> save(const ReservationState& state) = 0;
};

// disk: the name of the disk's file in the directory.
std::unique_ptr<ReservationStorage> reservation_file_in(
    std::unique_ptr<blockdev::Directory> directory, const std::string& disk);

}  // namespace tidepool::scsi
