// COMPARE AND WRITE and ORWRITE: nothing else gets between their reading and writing, at no host
// that serves the unit.
#include <cerrno>

#include "scsi/big_endian.h"
#include "scsi/block_access.h"
#include "scsi/handlers.h"

namespace tidepool::scsi {

namespace {

bool force_unit_access(const Task& task) { return (task.byte(1) & 0x08) != 0; }

void written(LogicalUnit& unit, Task& task, int error) {
  if (!unit.failed(task, error)) unit.finish(task);
}

template <Step next>
void read_then(LogicalUnit& unit, Task& task, int error) {
  if (unit.failed(task, error)) return;
  unit.read(task, task.range.begin * unit.block_size(), task.scratch.span(), next);
}

// Takes the range, at all hosts, with memory for what is there.
template <Step next>
void take_range(LogicalUnit& unit, Task& task, const BlockRange& range) {
  task.scratch = DataBuffer::allocate(range.count * unit.block_size());
  if (task.scratch.size() == 0) return (void)unit.failed(task, ENOMEM);
  unit.with_range(task, range, true, [](LogicalUnit& u, Task& t, int) { u.with_hold(t, next); });
}

void compare(LogicalUnit& unit, Task& task, int error) {
  if (unit.failed(task, error)) return;
  const std::size_t length = task.scratch.size();
  const auto expected = task.data_out.span().first(length);
  if (const auto differs = first_difference(task.scratch.span(), expected))
    return unit.fail(task, miscompare_at(*differs));
  unit.write(task, task.range.begin * unit.block_size(),
             task.data_out.span().subspan(length, length),
             unit.must_be_stable(force_unit_access(task)), written);
}

void merge(LogicalUnit& unit, Task& task, int error) {
  if (unit.failed(task, error)) return;
  const auto sent = task.data_out.span();
  for (std::size_t i = 0; i < task.scratch.size(); ++i) task.scratch.data()[i] |= sent[i];
  unit.write(task, task.range.begin * unit.block_size(), task.scratch.span(),
             unit.must_be_stable(force_unit_access(task)), written);
}

}  // namespace

void handle_compare_and_write(LogicalUnit& unit, Task& task) {
  const BlockRange range{load_be64(&task.cdb[2]), task.byte(13)};
  if (const auto sense = check_range(range, unit.blocks())) return unit.fail(task, *sense);
  if (range.count > unit.limits().compare_and_write) return unit.fail(task, invalid_cdb_field(13));
  task.data_out_wanted = static_cast<std::uint32_t>(2 * range.count * unit.block_size());
  if (task.data_out_length != task.data_out_wanted) return unit.fail(task, invalid_cdb_field(13));
  if (range.count == 0) return unit.finish(task);
  take_range<read_then<compare>>(unit, task, range);
}

void handle_or_write(LogicalUnit& unit, Task& task) {
  const BlockRange range = block_range(task.cdb);
  if (refuse_range(unit, task, range)) return;
  if (refuse_data(unit, task, range.count, Surplus::ignored)) return;
  if (range.count == 0) return unit.finish(task);
  take_range<read_then<merge>>(unit, task, range);
}

}  // namespace tidepool::scsi
