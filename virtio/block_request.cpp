#include "virtio/block_request.h"

#include <linux/virtio_blk.h>

#include <algorithm>
#include <cstring>

#include "base/byte_order.h"

namespace tidepool::virtio {

namespace {

constexpr std::size_t header_bytes = 16;
constexpr std::size_t range_bytes = 16;

// Copies the first bytes of the pieces and cuts them off; the pieces hold as many.
std::span<iovec> take_front(std::span<iovec> pieces, std::span<std::byte> out) {
  while (!out.empty()) {
    iovec& piece = pieces.front();
    const std::size_t count = std::min(out.size(), piece.iov_len);
    std::memcpy(out.data(), piece.iov_base, count);
    out = out.subspan(count);
    piece.iov_base = static_cast<char*>(piece.iov_base) + count;
    piece.iov_len -= count;
    if (piece.iov_len == 0) pieces = pieces.subspan(1);
  }
  return pieces;
}

BlockCommand command_of(std::uint32_t type) {
  switch (type) {
    case VIRTIO_BLK_T_IN:
      return BlockCommand::read;
    case VIRTIO_BLK_T_OUT:
      return BlockCommand::write;
    case VIRTIO_BLK_T_FLUSH:
      return BlockCommand::flush;
    case VIRTIO_BLK_T_GET_ID:
      return BlockCommand::get_id;
    case VIRTIO_BLK_T_DISCARD:
      return BlockCommand::discard;
    case VIRTIO_BLK_T_WRITE_ZEROES:
      return BlockCommand::write_zeroes;
    default:
      return BlockCommand::unknown;
  }
}

// The byte offset of a sector, if it has one.
bool to_bytes(std::uint64_t sector, std::uint64_t& offset) {
  if (sector > UINT64_MAX / sector_bytes) return false;
  offset = sector * sector_bytes;
  return true;
}

std::uint8_t parse_ranges(BlockRequest& request) {
  const std::uint64_t length = request.data_length;
  if (length == 0 || length % range_bytes != 0 || length / range_bytes > most_ranges) {
    return VIRTIO_BLK_S_IOERR;
  }
  std::array<std::byte, most_ranges * range_bytes> bytes;
  take_front(request.data, std::span(bytes).first(length));
  request.range_count = static_cast<std::uint32_t>(length / range_bytes);
  const bool zeroing = request.command == BlockCommand::write_zeroes;
  for (std::uint32_t i = 0; i < request.range_count; ++i) {
    const std::byte* const from = bytes.data() + i * range_bytes;
    const std::uint32_t sectors = load_le32(from + 8), flags = load_le32(from + 12);
    const std::uint32_t known = zeroing ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;
    if ((flags & ~known) != 0) return VIRTIO_BLK_S_UNSUPP;
    BlockRange& range = request.ranges[i];
    if (sectors > most_range_sectors || !to_bytes(load_le64(from), range.offset)) {
      return VIRTIO_BLK_S_IOERR;
    }
    range.length = sectors * sector_bytes;
    range.unmap = !zeroing || flags != 0;
  }
  return VIRTIO_BLK_S_OK;
}

}  // namespace

std::optional<BlockRequest> parse_block_request(Chain& chain) {
  if (chain.writable_bytes == 0 || chain.readable_bytes < header_bytes) return std::nullopt;
  BlockRequest request;
  std::span<iovec> readable(chain.segments.data(), chain.readable);
  std::span<iovec> writable(chain.segments.data() + chain.readable, chain.writable);
  std::array<std::byte, header_bytes> header;
  readable = take_front(readable, header);
  const std::uint64_t readable_left = chain.readable_bytes - header_bytes;
  iovec& last = writable.back();
  request.status = static_cast<std::uint8_t*>(last.iov_base) + last.iov_len - 1;
  if (--last.iov_len == 0) writable = writable.first(writable.size() - 1);

  request.command = command_of(load_le32(header.data()));
  const bool to_driver =
      request.command == BlockCommand::read || request.command == BlockCommand::get_id;
  request.data = to_driver ? writable : readable;
  request.data_length = to_driver ? chain.writable_bytes - 1 : readable_left;
  switch (request.command) {
    case BlockCommand::read:
    case BlockCommand::write:
      if (request.data_length % sector_bytes != 0 ||
          !to_bytes(load_le64(header.data() + 8), request.offset)) {
        request.refusal = VIRTIO_BLK_S_IOERR;
      }
      break;
    case BlockCommand::discard:
    case BlockCommand::write_zeroes:
      request.refusal = parse_ranges(request);
      break;
    case BlockCommand::flush:
    case BlockCommand::get_id:
      break;
    case BlockCommand::unknown:
      request.refusal = VIRTIO_BLK_S_UNSUPP;
      break;
  }
  return request;
}

}  // namespace tidepool::virtio
