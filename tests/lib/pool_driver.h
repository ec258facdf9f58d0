// Blocking calls on the disks of a pool, for tests that drive it in process.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/event_loop.h"
#include "fs/pool/pool.h"
#include "fs/pool/pool_channel.h"

namespace tidepool::test {

class PoolDriver {
 public:
  // Aborts when the pool gives no channel: nothing can be tested then.
  explicit PoolDriver(pool::Pool& pool);

  // 0 or a positive errno, as the request completed.
  int read(pool::Disk& disk, std::uint64_t offset, std::span<std::byte> data);
  int write(pool::Disk& disk, std::uint64_t offset, std::span<const std::byte> data,
            bool force_unit_access = false);
  int change(pool::Disk& disk, blockdev::IoOp op, std::uint64_t offset, std::uint64_t length);
  int flush(pool::Disk& disk) { return change(disk, blockdev::IoOp::flush, 0, 0); }
  // As a file system does it: the tail discarded, then the size set.
  int truncate(pool::Disk& disk, std::uint64_t old_size, std::uint64_t new_size);

 private:
  int run(pool::Disk& disk, blockdev::IoRequest& request);

  pool::Pool& pool_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<pool::PoolChannel> channel_;
};

}  // namespace tidepool::test
