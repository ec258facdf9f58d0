// Parts of a request's buffers: pure pointer work.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "blockdev/block_store.h"

namespace tidepool::pool {

// Appends to `out` the part [offset, offset + length) of the request's buffers.
void slice(const blockdev::IoRequest& request, std::uint64_t offset, std::uint64_t length,
           std::vector<iovec>& out);
void fill_zero(const blockdev::IoRequest& request, std::uint64_t offset, std::uint64_t length);
// Between the request's buffers, from `offset` on, and flat memory.
void copy_in(const blockdev::IoRequest& request, std::uint64_t offset,
             std::span<const std::byte> from);
void copy_out(const blockdev::IoRequest& request, std::uint64_t offset, std::span<std::byte> to);
// Every buffer's address and length is a multiple of `alignment`.
bool is_aligned(const blockdev::IoRequest& request, std::uint64_t alignment);

}  // namespace tidepool::pool
