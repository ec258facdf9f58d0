#include "blockdev/chain/store_compare.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "base/checked.h"
#include "blockdev/sync_channel.h"

namespace tidepool::blockdev::chain {

namespace {

constexpr std::uint64_t piece_bytes = std::uint64_t{1} << 20;
constexpr std::uint64_t sector_bytes = 512;

// The pieces of `store` (numbers of piece_bytes each) that hold data.
Result<> mark_data(BlockStore& store, std::vector<bool>& data) {
  const std::uint64_t size = store.geometry().size;
  return store.locate(0, size, [&](const Range& range) {
    if (range.kind != RangeKind::data || range.length == 0) return true;
    const std::uint64_t last = (range.offset + range.length - 1) / piece_bytes;
    for (std::uint64_t i = range.offset / piece_bytes; i <= last; ++i) data[i] = true;
    return true;
  });
}

// Reads what is there of [offset, offset + length), zeros behind the end.
Result<> read_padded(SyncChannel& channel, std::uint64_t size, std::uint64_t offset,
                     std::span<std::byte> out) {
  const std::uint64_t there = offset < size ? std::min<std::uint64_t>(out.size(), size - offset) : 0;
  std::memset(out.data() + there, 0, out.size() - there);
  if (there == 0) return {};
  return channel.read(offset, out.first(there));
}

}  // namespace

Result<> compare_stores(BlockStore& one, BlockStore& other, Progress& progress,
                        const std::function<bool(const Difference&)>& sink) {
  const std::uint64_t sizes[] = {one.geometry().size, other.geometry().size};
  const std::uint64_t size = std::max(sizes[0], sizes[1]);
  std::vector<bool> data((size + piece_bytes - 1) / piece_bytes);
  if (auto r = mark_data(one, data); !r) return r;
  if (auto r = mark_data(other, data); !r) return r;
  auto first = SyncChannel::open(one);
  if (!first) return std::unexpected(first.error());
  auto second = SyncChannel::open(other);
  if (!second) return std::unexpected(second.error());
  AlignedBuffer a(piece_bytes), b(piece_bytes);
  progress.total.store(static_cast<std::uint64_t>(std::count(data.begin(), data.end(), true)) *
                       piece_bytes);
  Difference found;
  for (std::uint64_t i = 0; i < data.size(); ++i) {
    if (!data[i]) continue;
    if (auto r = progress.go_on(); !r) return r;
    const std::uint64_t offset = i * piece_bytes;
    const std::uint64_t length = std::min(piece_bytes, size - offset);
    if (auto r = read_padded(**first, sizes[0], offset, a.span().first(length)); !r) return r;
    if (auto r = read_padded(**second, sizes[1], offset, b.span().first(length)); !r) return r;
    progress.done.fetch_add(piece_bytes);
    if (std::memcmp(a.data(), b.data(), length) == 0) continue;
    for (std::uint64_t at = 0; at < length; at += sector_bytes) {
      const std::uint64_t n = std::min(sector_bytes, length - at);
      if (std::memcmp(a.data() + at, b.data() + at, n) == 0) continue;
      if (found.length > 0 && found.offset + found.length == offset + at) {
        found.length += n;
        continue;
      }
      if (found.length > 0 && !sink(found)) return {};
      found = {offset + at, n};
    }
  }
  if (found.length > 0) sink(found);
  return {};
}

}  // namespace tidepool::blockdev::chain
