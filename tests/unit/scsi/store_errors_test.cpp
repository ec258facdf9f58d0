// Each row of the table, seen from outside: never a false GOOD.
#include "scsi/store_errors.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace tidepool::scsi {
namespace {

using blockdev::IoOp;

TEST(StoreErrors, OutOfSpaceIsSpaceAllocationFailed) {
  for (const int error : {ENOSPC, EDQUOT, EFBIG}) {
    const Sense sense = sense_of_store_error(error, IoOp::write);
    EXPECT_EQ(sense.key, SenseKey::data_protect);
    EXPECT_EQ(sense.code, 0x2707);
  }
}

TEST(StoreErrors, RefusalIsWriteProtectionOfWritesOnly) {
  for (const int error : {EROFS, EACCES, EPERM}) {
    EXPECT_EQ(sense_of_store_error(error, IoOp::write).code, 0x2700);
    EXPECT_EQ(sense_of_store_error(error, IoOp::read).key, SenseKey::medium_error);
  }
}

TEST(StoreErrors, EveryErrnoIsAnError) {
  for (int error = 1; error < 134; ++error)
    for (const IoOp op : {IoOp::read, IoOp::write, IoOp::flush, IoOp::discard})
      EXPECT_NE(sense_of_store_error(error, op).key, SenseKey::no_sense) << error;
}

}  // namespace
}  // namespace tidepool::scsi
