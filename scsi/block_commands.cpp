// READ, WRITE, VERIFY, WRITE AND VERIFY in all their lengths.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "scsi/block_access.h"
#include "scsi/handlers.h"

namespace tidepool::scsi {

namespace {

constexpr std::size_t piece_bytes = std::size_t{1} << 20;

bool force_unit_access(const Task& task) {
  return task.byte(0) != 0x0a && (task.byte(1) & 0x08) != 0;  // WRITE(6) has no flags
}

std::uint8_t byte_check(const Task& task) { return task.byte(1) >> 1 & 0x03; }

void read_done(LogicalUnit& unit, Task& task, int error) {
  if (unit.failed(task, error)) return;
  task.data_in_length = static_cast<std::uint32_t>(block_range(task.cdb).count * unit.block_size());
  unit.finish(task);
}

void write_done(LogicalUnit& unit, Task& task, int error) {
  if (!unit.failed(task, error)) unit.finish(task);
}

std::span<const std::byte> offered(const Task& task, const BlockSpan& span) {
  return task.data_out.span().first(span.length);
}

// What with_range() has taken.
BlockSpan held_bytes(const LogicalUnit& unit, const Task& task) {
  return bytes_of(unit, {task.range.begin, task.range.end - task.range.begin});
}

// Reads piece after piece from task.offset to task.end; what came is in task.scratch.
void verify_step(LogicalUnit& unit, Task& task, Step next) {
  const auto length = static_cast<std::size_t>(
      std::min<std::uint64_t>(task.end - task.offset, task.scratch.size()));
  unit.read(task, task.offset, task.scratch.span().first(length), next);
}

void verify_answered(LogicalUnit& unit, Task& task, int error) {
  if (unit.failed(task, error)) return;
  const std::uint64_t length = task.request.length, block = unit.block_size();
  const std::span<const std::byte> got = task.scratch.span().first(length);
  const std::uint8_t check = byte_check(task);
  if (check != 0) {
    const std::uint64_t begin = block_range(task.cdb).first * block;
    for (std::uint64_t at = 0; at < length; at += block) {
      // BYTCHK 3: the one block that was sent stands for all.
      const std::uint64_t expected = check == 3 ? 0 : task.offset - begin + at;
      const auto differs =
          first_difference(got.subspan(at, block), task.data_out.span().subspan(expected, block));
      if (differs) return unit.fail(task, miscompare_at(expected + *differs));
    }
  }
  task.offset += length;
  if (task.offset == task.end) return unit.finish(task);
  verify_step(unit, task, verify_answered);
}

void begin_verify(LogicalUnit& unit, Task& task, int error) {
  if (unit.failed(task, error)) return;
  const BlockSpan span = held_bytes(unit, task);
  task.offset = span.offset;
  task.end = span.offset + span.length;
  if (span.length == 0) return unit.finish(task);
  task.scratch = DataBuffer::allocate(std::min<std::size_t>(span.length, piece_bytes));
  if (task.scratch.size() == 0) return (void)unit.failed(task, ENOMEM);
  verify_step(unit, task, verify_answered);
}

}  // namespace

void handle_read(LogicalUnit& unit, Task& task) {
  BlockRange range = block_range(task.cdb);
  if (refuse_range(unit, task, range)) return;
  if (range.count == 0) return unit.finish(task);
  // What there is no room for is not read: the transport's residual count tells of it.
  const std::uint64_t room =
      (std::uint64_t{task.data_in_room} + unit.block_size() - 1) / unit.block_size();
  range.count = std::min(range.count, room);
  if (range.count == 0) return read_done(unit, task, 0);
  task.data_in = DataBuffer::allocate(range.count * unit.block_size());
  if (task.data_in.size() == 0) return (void)unit.failed(task, ENOMEM);
  unit.with_range(task, range, false, [](LogicalUnit& u, Task& t, int) {
    u.read(t, t.range.begin * u.block_size(), t.data_in.span(), read_done);
  });
}

void handle_write(LogicalUnit& unit, Task& task) {
  if (refuse_range(unit, task, block_range(task.cdb))) return;
  const BlockRange range = sent_part(unit, task, block_range(task.cdb));
  if (range.count == 0) return unit.finish(task);
  unit.with_range(task, range, true, [](LogicalUnit& u, Task& t, int) {
    const BlockSpan span = held_bytes(u, t);
    u.write(t, span.offset, offered(t, span), u.must_be_stable(force_unit_access(t)), write_done);
  });
}

void handle_write_verify(LogicalUnit& unit, Task& task) {
  if (byte_check(task) > 1) return unit.fail(task, invalid_cdb_field(1));
  if (refuse_range(unit, task, block_range(task.cdb))) return;
  const BlockRange range = sent_part(unit, task, block_range(task.cdb));
  if (range.count == 0) return unit.finish(task);
  unit.with_range(task, range, true, [](LogicalUnit& u, Task& t, int) {
    const BlockSpan span = held_bytes(u, t);
    // What is verified is to be the medium.
    u.write(t, span.offset, offered(t, span), true, begin_verify);
  });
}

void handle_verify(LogicalUnit& unit, Task& task) {
  const BlockRange range = block_range(task.cdb);
  const std::uint8_t check = byte_check(task);
  if (check == 2) return unit.fail(task, invalid_cdb_field(1));
  if (refuse_range(unit, task, range)) return;
  const std::uint64_t blocks_sent = check == 0 ? 0 : check == 1 ? range.count : 1;
  if (refuse_data(unit, task, range.count == 0 ? 0 : blocks_sent, Surplus::ignored)) return;
  unit.with_range(task, range, false, begin_verify);
}

}  // namespace tidepool::scsi
