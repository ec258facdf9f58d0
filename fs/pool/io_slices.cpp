#include "fs/pool/io_slices.h"

#include <algorithm>
#include <cstring>

namespace tidepool::pool {

namespace {

// Calls part(address, length) for the pieces of the buffers in the range.
template <class Part>
void for_parts(const blockdev::IoRequest& request, std::uint64_t offset, std::uint64_t length,
               Part&& part) {
  for (unsigned i = 0; i < request.buffer_count && length > 0; ++i) {
    const iovec& buffer = request.buffers[i];
    if (offset >= buffer.iov_len) {
      offset -= buffer.iov_len;
      continue;
    }
    std::uint64_t here = std::min<std::uint64_t>(buffer.iov_len - offset, length);
    part(static_cast<std::byte*>(buffer.iov_base) + offset, here);
    length -= here;
    offset = 0;
  }
}

}  // namespace

void slice(const blockdev::IoRequest& request, std::uint64_t offset, std::uint64_t length,
           std::vector<iovec>& out) {
  for_parts(request, offset, length, [&](std::byte* at, std::uint64_t n) {
    out.push_back({at, n});
  });
}

void fill_zero(const blockdev::IoRequest& request, std::uint64_t offset, std::uint64_t length) {
  for_parts(request, offset, length,
            [&](std::byte* at, std::uint64_t n) { std::memset(at, 0, n); });
}

void copy_in(const blockdev::IoRequest& request, std::uint64_t offset,
             std::span<const std::byte> from) {
  const std::byte* source = from.data();
  for_parts(request, offset, from.size(), [&](std::byte* at, std::uint64_t n) {
    std::memcpy(at, source, n);
    source += n;
  });
}

void copy_out(const blockdev::IoRequest& request, std::uint64_t offset, std::span<std::byte> to) {
  std::byte* target = to.data();
  for_parts(request, offset, to.size(), [&](std::byte* at, std::uint64_t n) {
    std::memcpy(target, at, n);
    target += n;
  });
}

bool is_aligned(const blockdev::IoRequest& request, std::uint64_t alignment) {
  std::uint64_t bits = 0;
  for (unsigned i = 0; i < request.buffer_count; ++i)
    bits |=
        reinterpret_cast<std::uintptr_t>(request.buffers[i].iov_base) | request.buffers[i].iov_len;
  return (bits & (alignment - 1)) == 0;
}

}  // namespace tidepool::pool
