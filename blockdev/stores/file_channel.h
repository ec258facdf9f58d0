// The io_uring side of a FileStore: one per event loop.
//
// A request turns into one kernel operation at a time: short transfers are
// continued from IoRequest::progress, discard and zero fall back to writing
// zeros where the file system or device has no better means. Nothing is
// allocated per request.
//
// On a loop that may block, what the page cache has or takes goes by a plain
// system call: a ring would hand each buffered write to a worker thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "blockdev/block_store.h"

namespace tidepool::blockdev {

// What a store and its channels share. Constant after open, except the atomics.
struct FileTarget {
  std::string name;
  UniqueFd fd;
  std::uint32_t logical_block = 512;   // bytes
  std::uint32_t memory_alignment = 1;  // bytes
  bool read_only = false;
  bool direct = false;  // O_DIRECT
  bool device = false;
  std::atomic<std::uint64_t> size{0};  // bytes, a multiple of logical_block
  // Cleared by the first refusal, so that later requests skip the attempt.
  std::atomic<bool> can_punch{true};
  std::atomic<bool> can_zero_range{true};

  Geometry geometry() const {
    return {.size = size.load(std::memory_order_relaxed),
            .logical_block = logical_block,
            .memory_alignment = memory_alignment,
            .read_only = read_only,
            .can_discard = !read_only && can_punch.load(std::memory_order_relaxed)};
  }
};

class FileChannel : public IoChannel {
 public:
  FileChannel(EventLoop& loop, FileTarget& target) : loop_(loop), target_(target) {}
  void submit(IoRequest& request) override;

 private:
  void transfer(IoRequest& request);
  bool transfer_at_once(IoRequest& request);
  void write_zeros(IoRequest& request);
  void allocate(IoRequest& request, int mode);
  void sync(IoRequest& request);

  void transferred(IoRequest& request, int result);
  void zeros_written(IoRequest& request, int result);
  void allocated(IoRequest& request, int result);

  template <void (FileChannel::*handler)(IoRequest&, int)>
  io_uring_sqe* prepare(IoRequest& request);
  void synced(IoRequest& request, int result);

  EventLoop& loop_;
  FileTarget& target_;
};

}  // namespace tidepool::blockdev
