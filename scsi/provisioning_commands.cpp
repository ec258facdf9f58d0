// Space: UNMAP, WRITE SAME, GET LBA STATUS.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>

#include "scsi/big_endian.h"
#include "scsi/block_access.h"
#include "scsi/handlers.h"

namespace tidepool::scsi {

namespace {

constexpr std::size_t unmap_header = 8, unmap_descriptor = 16;  // bytes
constexpr std::size_t piece_bytes = std::size_t{1} << 20;
constexpr std::uint64_t discard_piece = std::uint64_t{256} << 20;  // bytes

BlockRange unmap_range(const Task& task, std::uint64_t index) {
  const std::byte* const at = task.data_out.data() + unmap_header + index * unmap_descriptor;
  return {load_be64(at), load_be32(at + 8)};
}

void unmap_next(LogicalUnit& unit, Task& task, int error) {
  if (unit.failed(task, error)) return;
  while (task.index < task.end) {
    const BlockSpan span = bytes_of(unit, unmap_range(task, task.index++));
    if (span.length == 0) continue;
    return unit.discard(task, span.offset, span.length, unit.must_be_stable(false), unmap_next);
  }
  unit.finish(task);
}

bool all_zero(std::span<const std::byte> block) {
  return std::ranges::all_of(block, [](std::byte b) { return b == std::byte{0}; });
}

bool same_unmaps(const Task& task) { return (task.byte(1) & 0x08) != 0; }
bool same_sends_nothing(const Task& task) { return task.byte(0) == 0x93 && (task.byte(1) & 0x01); }

// One request with the store at a time, from task.offset to task.end.
void same_next(LogicalUnit& unit, Task& task, int error) {
  if (unit.failed(task, error)) return;
  if (task.index != 0) task.offset += task.request.length;
  task.index = 1;
  if (task.offset == task.end) return unit.finish(task);
  const std::uint64_t rest = task.end - task.offset;
  const bool stable = unit.must_be_stable(false);
  if (task.scratch.size() > 0) {
    const auto length =
        static_cast<std::size_t>(std::min<std::uint64_t>(rest, task.scratch.size()));
    return unit.write(task, task.offset, task.scratch.span().first(length), stable, same_next);
  }
  const std::uint64_t length = std::min(rest, discard_piece);
  if (same_unmaps(task)) return unit.discard(task, task.offset, length, stable, same_next);
  unit.zero(task, task.offset, length, stable, same_next);
}

constexpr std::size_t status_header = 8, status_descriptor = 16;  // bytes
constexpr std::uint64_t most_descriptors = 4096;

// Fills in what GET LBA STATUS tells from the block `first` on, as much as `out` has room for.
// 0, or an errno.
int find_status(blockdev::BlockStore& store, std::uint64_t block, std::uint64_t blocks,
                std::uint64_t first, std::span<std::byte> out) {
  struct Piece {
    std::uint64_t begin = 0, end = 0;  // blocks
    std::uint8_t status = 0;           // 0 mapped, 1 deallocated, 2 anchored
  };
  std::vector<Piece> pieces;
  const std::size_t most = (out.size() - status_header) / status_descriptor;
  const auto status_of = [](blockdev::RangeKind kind) -> std::uint8_t {
    if (kind == blockdev::RangeKind::hole) return 1;
    return kind == blockdev::RangeKind::zero ? 2 : 0;
  };
  // A block that is partly mapped is mapped.
  const auto add = [&](const blockdev::Range& range) {
    const std::uint8_t status = status_of(range.kind);
    const std::uint64_t end = range.offset + range.length;
    const std::uint64_t from = pieces.empty() ? first : pieces.back().end;
    const std::uint64_t to = status == 0 ? (end + block - 1) / block : end / block;
    if (to <= from) return true;
    if (!pieces.empty() && pieces.back().status == status) {
      pieces.back().end = to;
      return true;
    }
    if (pieces.size() == most) return false;
    pieces.push_back({from, to, status});
    return true;
  };
  const auto located = store.locate(first * block, (blocks - first) * block, add);
  if (!located) return located.error().errno_value;
  constexpr std::uint64_t longest = std::numeric_limits<std::uint32_t>::max();
  std::byte* to = out.data() + status_header;
  std::memset(out.data(), 0, status_header);
  for (const Piece& piece : pieces) {
    std::memset(to, 0, status_descriptor);
    store_be64(to, piece.begin);
    store_be32(to + 8, std::min(piece.end - piece.begin, longest));
    to[12] = std::byte{piece.status};
    to += status_descriptor;
    if (piece.end - piece.begin > longest) break;
  }
  store_be32(out.data(), static_cast<std::uint64_t>(to - out.data()) - 4);
  return 0;
}

}  // namespace

void handle_unmap(LogicalUnit& unit, Task& task) {
  if ((task.byte(1) & 0x01) != 0) return unit.fail(task, invalid_cdb_field(1));  // ANCHOR
  const std::uint32_t length = load_be16(&task.cdb[7]);
  task.data_out_wanted = length;
  if (length == 0) return unit.finish(task);
  if (length < unmap_header || task.data_out_length < length)
    return unit.fail(task, illegal_request(asc::parameter_list_length_error));
  const std::uint32_t descriptors = load_be16(&task.data_out.data()[2]);
  if (descriptors > length - unmap_header)
    return unit.fail(task, illegal_request(asc::parameter_list_length_error));
  const std::uint64_t count = descriptors / unmap_descriptor;
  if (count > unit.limits().unmap_descriptors) return unit.fail(task, invalid_parameter(2));

  BlockRange whole{std::numeric_limits<std::uint64_t>::max(), 0};
  std::uint64_t end = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    const BlockRange range = unmap_range(task, i);
    if (const auto sense = check_range(range, unit.blocks())) return unit.fail(task, *sense);
    if (range.count == 0) continue;
    whole.first = std::min(whole.first, range.first);
    end = std::max(end, range.first + range.count);
  }
  if (end == 0) return unit.finish(task);
  whole.count = end - whole.first;
  task.index = 0;
  task.end = count;
  unit.with_range(task, whole, true, unmap_next);
}

void handle_write_same(LogicalUnit& unit, Task& task) {
  const BlockRange range = block_range(task.cdb);
  const bool no_data = same_sends_nothing(task), unmaps = same_unmaps(task);
  if ((task.byte(1) & 0x10) != 0) return unit.fail(task, invalid_cdb_field(1));  // ANCHOR
  if (unmaps && !unit.limits().thin) return unit.fail(task, invalid_cdb_field(1));
  if (const auto sense = check_range(range, unit.blocks())) return unit.fail(task, *sense);
  if (range.count == 0 || range.count > unit.limits().write_same)
    return unit.fail(task, invalid_cdb_field(task.byte(0) == 0x41 ? 7 : 10));
  if (refuse_data(unit, task, no_data ? 0 : 1, no_data ? Surplus::ignored : Surplus::refused))
    return;
  const BlockSpan span = bytes_of(unit, range);
  const auto block = task.data_out.span().first(no_data ? 0 : unit.block_size());
  if (!all_zero(block)) {
    task.scratch = DataBuffer::allocate(std::min<std::size_t>(span.length, piece_bytes));
    if (task.scratch.size() == 0) return (void)unit.failed(task, ENOMEM);
    for (std::size_t at = 0; at < task.scratch.size(); at += block.size())
      std::memcpy(task.scratch.data() + at, block.data(), block.size());
  }
  task.offset = span.offset;
  task.end = span.offset + span.length;
  unit.with_range(task, range, true, same_next);
}

void handle_get_lba_status(LogicalUnit& unit, Task& task) {
  const std::uint64_t first = load_be64(&task.cdb[2]);
  const std::uint32_t allocation = load_be32(&task.cdb[10]);
  if (first >= unit.blocks()) return unit.fail(task, illegal_request(asc::lba_out_of_range));
  if (allocation < status_header + status_descriptor) return unit.fail(task, invalid_cdb_field(10));
  const std::uint64_t most =
      std::min<std::uint64_t>((allocation - status_header) / status_descriptor, most_descriptors);
  task.scratch = DataBuffer::allocate(status_header + most * status_descriptor);
  if (task.scratch.size() == 0) return (void)unit.failed(task, ENOMEM);
  // A store on a NAS asks its server.
  unit.do_aside(
      task,
      [&store = unit.store(), block = unit.block_size(), blocks = unit.blocks(), first,
       out = task.scratch.span()] { return find_status(store, block, blocks, first, out); },
      [](LogicalUnit& u, Task& t, int error) {
        if (u.failed(t, error)) return;
        const std::size_t length = load_be32(t.scratch.data()) + 4;
        u.reply(t, t.scratch.span().first(length), load_be32(&t.cdb[10]));
      });
}

}  // namespace tidepool::scsi
