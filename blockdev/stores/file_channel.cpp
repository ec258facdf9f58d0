#include "blockdev/stores/file_channel.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>

#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "blockdev/request_check.h"

namespace tidepool::blockdev {

namespace {

// A submission entry's length has 32 bits, and the kernel moves at most 2 GiB
// less a page at once; a power of two keeps every alignment.
constexpr std::uint64_t most_per_operation = std::uint64_t{1} << 30;

constexpr std::size_t zero_block_size = 256 * 1024;
alignas(4096) std::byte zero_block[zero_block_size];  // never written: costs no memory

bool again(int result) { return result == -EINTR || result == -EAGAIN; }

IoRequest& request_of(Operation& operation) {
  return *reinterpret_cast<IoRequest*>(reinterpret_cast<char*>(&operation) -
                                       offsetof(IoRequest, operation));
}

// A place in the request's buffers.
struct Position {
  unsigned index = 0;
  std::size_t offset = 0;  // in that buffer
};

Position position_of(const IoRequest& request, std::uint64_t progress) {
  Position at;
  while (progress >= request.buffers[at.index].iov_len) {
    progress -= request.buffers[at.index++].iov_len;
  }
  at.offset = static_cast<std::size_t>(progress);
  return at;
}

void clear_from(const IoRequest& request, std::uint64_t progress) {
  if (progress >= request.length) return;
  auto [index, offset] = position_of(request, progress);
  for (; index < request.buffer_count; ++index, offset = 0) {
    const iovec& buffer = request.buffers[index];
    std::memset(static_cast<char*>(buffer.iov_base) + offset, 0, buffer.iov_len - offset);
  }
}

}  // namespace

template <void (FileChannel::*handler)(IoRequest&, int)>
io_uring_sqe* FileChannel::prepare(IoRequest& request) {
  request.operation.on_complete = [](Operation& operation, int result, unsigned) {
    IoRequest& owner = request_of(operation);
    (static_cast<FileChannel*>(owner.holder)->*handler)(owner, result);
  };
  return loop_.prepare(request.operation);
}

void FileChannel::submit(IoRequest& request) {
  if (const int error = refusal(target_.geometry(), request); error != 0)
    return request.complete(request, error);
  if (request.length == 0 && request.op != IoOp::flush) return request.complete(request, 0);
  request.progress = 0;
  request.holder = this;
  switch (request.op) {
    case IoOp::read:
    case IoOp::write:
      return transfer(request);
    case IoOp::flush:
      if (target_.read_only) return request.complete(request, 0);
      return sync(request);
    case IoOp::discard:
      if (!target_.can_punch.load(std::memory_order_relaxed)) return write_zeros(request);
      return allocate(request, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
    case IoOp::zero:
      if (!target_.can_zero_range.load(std::memory_order_relaxed)) return write_zeros(request);
      return allocate(request, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE);
    case IoOp::allocate:
      // A device's blocks are its own; whether a thin device has enough is not
      // for us to know.
      if (target_.device) return request.complete(request, 0);
      return allocate(request, FALLOC_FL_KEEP_SIZE);
  }
  request.complete(request, EINVAL);
}

// What the page cache holds is read, and what it can take is written. False: the
// device must be waited for, which the ring does for several requests at a time.
bool FileChannel::transfer_at_once(IoRequest& request) {
  if (target_.direct || !loop_.may_block()) return false;
  const Position at = request.progress == 0 ? Position{} : position_of(request, request.progress);
  if (at.offset > 0) return false;
  const iovec* const buffers = request.buffers + at.index;
  const int count = static_cast<int>(std::min<unsigned>(request.buffer_count - at.index, IOV_MAX));
  const auto offset = static_cast<off_t>(request.offset + request.progress);
  const ssize_t moved =
      request.op == IoOp::read
          ? ::preadv2(target_.fd.get(), buffers, count, offset, RWF_NOWAIT)
          : ::pwritev2(target_.fd.get(), buffers, count, offset,
                       request.force_unit_access ? RWF_DSYNC : 0);
  if (moved < 0) return false;  // a real failure is found by the ring, too
  transferred(request, static_cast<int>(moved));
  return true;
}

void FileChannel::transfer(IoRequest& request) {
  if (transfer_at_once(request)) return;
  io_uring_sqe* const entry = prepare<&FileChannel::transferred>(request);
  const bool reading = request.op == IoOp::read;
  const auto at = request.progress == 0 ? Position{} : position_of(request, request.progress);
  const iovec* const buffers = request.buffers + at.index;
  const unsigned count = request.buffer_count - at.index;
  const std::uint64_t offset = request.offset + request.progress;
  if (count == 1 || at.offset > 0) {
    // The rest of a buffer that was cut short goes alone, the others follow.
    char* const data = static_cast<char*>(buffers->iov_base) + at.offset;
    const auto length = static_cast<unsigned>(
        std::min<std::uint64_t>(buffers->iov_len - at.offset, most_per_operation));
    if (reading) {
      io_uring_prep_read(entry, target_.fd.get(), data, length, offset);
    } else {
      io_uring_prep_write(entry, target_.fd.get(), data, length, offset);
    }
  } else {
    const unsigned most = std::min<unsigned>(count, IOV_MAX);
    if (reading) {
      io_uring_prep_readv(entry, target_.fd.get(), buffers, most, offset);
    } else {
      io_uring_prep_writev(entry, target_.fd.get(), buffers, most, offset);
    }
  }
  if (!reading && request.force_unit_access) entry->rw_flags = RWF_DSYNC;
}

void FileChannel::transferred(IoRequest& request, int result) {
  if (again(result)) return transfer(request);
  if (result < 0) return request.complete(request, -result);
  request.progress += static_cast<unsigned>(result);
  if (request.progress < request.length) {
    const bool reading = request.op == IoOp::read;
    // Direct reads end within a block only at the end of the file.
    const bool partial_block =
        target_.direct && (static_cast<unsigned>(result) & (target_.logical_block - 1)) != 0;
    if (!reading && (result == 0 || partial_block)) return request.complete(request, EIO);
    if (result != 0 && !partial_block) return transfer(request);
    clear_from(request, request.progress);
  }
  request.complete(request, 0);
}

void FileChannel::write_zeros(IoRequest& request) {
  io_uring_sqe* const entry = prepare<&FileChannel::zeros_written>(request);
  const auto length = static_cast<unsigned>(
      std::min<std::uint64_t>(request.length - request.progress, zero_block_size));
  io_uring_prep_write(entry, target_.fd.get(), zero_block, length,
                      request.offset + request.progress);
  if (request.force_unit_access) entry->rw_flags = RWF_DSYNC;
}

void FileChannel::zeros_written(IoRequest& request, int result) {
  if (again(result)) return write_zeros(request);
  if (result <= 0) return request.complete(request, result == 0 ? EIO : -result);
  request.progress += static_cast<unsigned>(result);
  if (request.progress < request.length) return write_zeros(request);
  request.complete(request, 0);
}

void FileChannel::allocate(IoRequest& request, int mode) {
  io_uring_prep_fallocate(prepare<&FileChannel::allocated>(request), target_.fd.get(), mode,
                          static_cast<off_t>(request.offset), static_cast<off_t>(request.length));
}

void FileChannel::allocated(IoRequest& request, int result) {
  if (again(result)) {
    // From the start: each of these operations may be repeated.
    return submit(request);
  }
  if (result == -EOPNOTSUPP && request.op == IoOp::discard) {
    target_.can_punch.store(false, std::memory_order_relaxed);
    return write_zeros(request);
  }
  if (result == -EOPNOTSUPP && request.op == IoOp::zero) {
    target_.can_zero_range.store(false, std::memory_order_relaxed);
    return write_zeros(request);
  }
  if (result < 0) return request.complete(request, -result);
  if (request.force_unit_access) return sync(request);
  request.complete(request, 0);
}

void FileChannel::sync(IoRequest& request) {
  io_uring_prep_fsync(prepare<&FileChannel::synced>(request), target_.fd.get(),
                      IORING_FSYNC_DATASYNC);
}

void FileChannel::synced(IoRequest& request, int result) {
  if (again(result)) return sync(request);
  request.complete(request, result < 0 ? -result : 0);
}

}  // namespace tidepool::blockdev
