// Bytes between a buffer of ours and pieces of guest memory.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace tidepool::virtio {

// step(there, count) for each part of the `length` bytes that begin `skip` bytes into the
// pieces, as far as these have them.
template <class Step>
void for_pieces(std::span<const iovec> pieces, std::uint64_t skip, std::uint64_t length,
                Step&& step) {
  for (const iovec& piece : pieces) {
    if (length == 0) return;
    if (skip >= piece.iov_len) {
      skip -= piece.iov_len;
      continue;
    }
    const std::size_t count = std::min<std::uint64_t>(length, piece.iov_len - skip);
    step(static_cast<std::byte*>(piece.iov_base) + skip, count);
    skip = 0;
    length -= count;
  }
}

inline void copy_to(std::span<const iovec> pieces, std::uint64_t skip,
                    std::span<const std::byte> data) {
  for_pieces(pieces, skip, data.size(), [&data](std::byte* there, std::size_t count) {
    std::memcpy(there, data.data(), count);
    data = data.subspan(count);
  });
}

inline void copy_from(std::span<const iovec> pieces, std::uint64_t skip,
                      std::span<std::byte> data) {
  for_pieces(pieces, skip, data.size(), [&data](const std::byte* there, std::size_t count) {
    std::memcpy(data.data(), there, count);
    data = data.subspan(count);
  });
}

}  // namespace tidepool::virtio
