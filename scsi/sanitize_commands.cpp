// SANITIZE: starts what sanitize.h goes on with.
#include <cstring>

#include "base/log.h"
#include "scsi/big_endian.h"
#include "scsi/handlers.h"
#include "scsi/logical_unit.h"
#include "scsi/store_errors.h"

namespace tidepool::scsi {

namespace {

constexpr std::size_t overwrite_header = 4;  // bytes

void start(LogicalUnit& unit, Task& task, Sanitize::Kind kind, std::span<const std::byte> pattern,
           unsigned passes, bool invert) {
  const bool immediate = (task.byte(1) & 0x80) != 0;
  const blockdev::IoOp op =
      kind == Sanitize::Kind::overwrite ? blockdev::IoOp::write : blockdev::IoOp::discard;
  const TaskId id = task.id;
  auto done = [&unit, id, op](int error) {
    if (error != 0) log().error("'{}': SANITIZE failed: errno {}", unit.store().name(), error);
    // Aborted meanwhile, or answered at once: nobody waits.
    Task* const waiter = unit.find(id);
    if (waiter == nullptr) return;
    if (error != 0) return unit.fail(*waiter, sense_of_store_error(error, op));
    unit.finish(*waiter);
  };
  const bool started = unit.sanitize().start(kind, pattern, passes, invert, std::move(done));
  if (!started) return unit.fail(task, sense_of_store_error(ENOMEM, op));
  // It may be over already, and the task with it.
  if (Task* const still = unit.find(id); still != nullptr && immediate) unit.finish(*still);
}

}  // namespace

void handle_sanitize_overwrite(LogicalUnit& unit, Task& task) {
  const std::uint32_t length = load_be16(&task.cdb[7]);
  task.data_out_wanted = length;
  if (length <= overwrite_header || length > overwrite_header + unit.block_size())
    return unit.fail(task, invalid_cdb_field(7));
  if (task.data_out_length < length)
    return unit.fail(task, illegal_request(asc::parameter_list_length_error));
  const auto list = task.data_out.span().first(length);
  const unsigned passes = load_be8(&list[0]) & 0x1f;
  const bool invert = (list[0] & std::byte{0x80}) != std::byte{0};
  const std::uint16_t pattern_length = load_be16(&list[2]);
  if (passes == 0) return unit.fail(task, invalid_parameter(0));
  if (pattern_length == 0 || pattern_length > unit.block_size() ||
      pattern_length != length - overwrite_header)
    return unit.fail(task, invalid_parameter(2));
  // Each block begins with the pattern, repeated.
  std::vector<std::byte> block(unit.block_size());
  for (std::size_t i = 0; i < block.size(); ++i)
    block[i] = list[overwrite_header + i % pattern_length];
  start(unit, task, Sanitize::Kind::overwrite, block, passes, invert);
}

void handle_sanitize_block_erase(LogicalUnit& unit, Task& task) {
  if (load_be16(&task.cdb[7]) != 0) return unit.fail(task, invalid_cdb_field(7));
  start(unit, task, Sanitize::Kind::block_erase, {}, 1, false);
}

void handle_exit_failure_mode(LogicalUnit& unit, Task& task) {
  if (load_be16(&task.cdb[7]) != 0) return unit.fail(task, invalid_cdb_field(7));
  unit.sanitize().leave_failure();
  unit.finish(task);
}

}  // namespace tidepool::scsi
