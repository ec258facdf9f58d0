#include "scsi/store_errors.h"

#include <cerrno>

namespace tidepool::scsi {

namespace {

struct Row {
  int error;
  SenseKey key;
  std::uint16_t code;
};

// Permanent until someone acts: out of space, not allowed. Worth a retry: busy, no
// memory. All else: the medium.
constexpr Row rows[] = {
    {ENOSPC, SenseKey::data_protect, asc::space_allocation_failed},
    {EDQUOT, SenseKey::data_protect, asc::space_allocation_failed},
    {EFBIG, SenseKey::data_protect, asc::space_allocation_failed},
    {EROFS, SenseKey::data_protect, asc::write_protected},
    {EACCES, SenseKey::data_protect, asc::write_protected},
    {EPERM, SenseKey::data_protect, asc::write_protected},
    {EAGAIN, SenseKey::aborted_command, asc::internal_target_failure},
    {EBUSY, SenseKey::aborted_command, asc::internal_target_failure},
    {ENOMEM, SenseKey::aborted_command, asc::internal_target_failure},
    {ETIMEDOUT, SenseKey::aborted_command, asc::internal_target_failure},
    {ESTALE, SenseKey::hardware_error, asc::internal_target_failure},
    {ENODEV, SenseKey::hardware_error, asc::internal_target_failure},
    {ENXIO, SenseKey::hardware_error, asc::internal_target_failure},
    {EINVAL, SenseKey::hardware_error, asc::internal_target_failure},
    {EOPNOTSUPP, SenseKey::hardware_error, asc::internal_target_failure},
};

}  // namespace

Sense sense_of_store_error(int error, blockdev::IoOp op) {
  const bool reading = op == blockdev::IoOp::read;
  for (const Row& row : rows) {
    if (row.error != error) continue;
    // Nothing is written by a read: its refusal is not write protection.
    if (reading && row.key == SenseKey::data_protect) break;
    return {.key = row.key, .code = row.code};
  }
  return {.key = SenseKey::medium_error,
          .code = reading ? asc::unrecovered_read_error : asc::write_error};
}

}  // namespace tidepool::scsi
