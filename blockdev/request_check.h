// The waist's rules for a request, in one place for all stores.
#pragma once

#include <cerrno>
#include <cstdint>

#include "base/checked.h"
#include "blockdev/block_store.h"

namespace tidepool::blockdev {

// The errno to refuse a request with, or 0: EROFS for changes to a read-only
// store, EINVAL for what is out of range or not aligned, and for buffers that do
// not add up to the length.
inline int refusal(const Geometry& geometry, const IoRequest& request) {
  if (request.op == IoOp::flush) return 0;
  if (request.op != IoOp::read && geometry.read_only) return EROFS;
  const std::uint64_t block_mask = geometry.logical_block - 1;
  if (((request.offset | request.length) & block_mask) != 0) return EINVAL;
  if (!range_fits(request.offset, request.length, geometry.size)) return EINVAL;
  if (request.op != IoOp::read && request.op != IoOp::write) return 0;
  const std::uintptr_t memory_mask = geometry.memory_alignment - 1;
  std::uint64_t sum = 0;
  for (unsigned i = 0; i < request.buffer_count; ++i) {
    const iovec& buffer = request.buffers[i];
    const auto address = reinterpret_cast<std::uintptr_t>(buffer.iov_base);
    if (((address | buffer.iov_len) & memory_mask) != 0) return EINVAL;
    sum += buffer.iov_len;
  }
  return sum == request.length ? 0 : EINVAL;
}

}  // namespace tidepool::blockdev
