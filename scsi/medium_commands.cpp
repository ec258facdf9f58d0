// The medium as a whole: capacity, cache, loading and ejecting.
#include "scsi/big_endian.h"
#include "scsi/cdb.h"
#include "scsi/handlers.h"
#include "scsi/logical_unit.h"

namespace tidepool::scsi {

namespace {

void start_stop(LogicalUnit& unit, Task& task) {
  const std::uint8_t power = task.byte(4) >> 4;
  const bool load_eject = (task.byte(4) & 0x02) != 0, start = (task.byte(4) & 0x01) != 0;
  // No motor is stopped and no power saved: a power condition is accepted as reached.
  if (power == 0 && load_eject) {
    if (!unit.identity().removable) return unit.fail(task, invalid_cdb_field(4));
    if (unit.removal_prevented())
      return unit.fail(task, illegal_request(asc::medium_removal_prevented));
    unit.set_loaded(task, start);
  }
  unit.finish(task);
}

}  // namespace

void handle_start_stop(LogicalUnit& unit, Task& task) {
  const bool start = (task.byte(4) & 0x01) != 0, power = (task.byte(4) & 0xf0) != 0;
  if (unit.conflicts(task, start && !power ? Access::always : Access::write))
    return unit.finish(task, Status::reservation_conflict);
  const bool flush_first = !start && !power && (task.byte(4) & 0x04) == 0;
  if (!flush_first || !unit.loaded() || unit.read_only()) return start_stop(unit, task);
  unit.flush(task, [](LogicalUnit& u, Task& t, int error) {
    if (!u.failed(t, error)) start_stop(u, t);
  });
}

void handle_prevent_allow(LogicalUnit& unit, Task& task) {
  const bool prevent = (task.byte(4) & 0x01) != 0;
  if (unit.conflicts(task, prevent ? Access::write : Access::own_checks))
    return unit.finish(task, Status::reservation_conflict);
  if (prevent && !unit.identity().removable) return unit.fail(task, invalid_cdb_field(4));
  unit.nexus_of(task).prevents_removal = prevent;
  unit.finish(task);
}

void handle_read_capacity_10(LogicalUnit& unit, Task& task) {
  const bool partial = (task.byte(8) & 0x01) != 0;  // PMI
  if (!partial && load_be32(&task.cdb[2]) != 0) return unit.fail(task, invalid_cdb_field(2));
  const std::uint64_t last = unit.blocks() - 1;
  std::byte data[8];
  store_be32(&data[0], last > 0xffffffff ? 0xffffffff : last);
  store_be32(&data[4], unit.block_size());
  unit.reply(task, data, sizeof data);
}

void handle_read_capacity_16(LogicalUnit& unit, Task& task) {
  const bool partial = (task.byte(14) & 0x01) != 0;
  if (!partial && load_be64(&task.cdb[2]) != 0) return unit.fail(task, invalid_cdb_field(2));
  std::byte data[32]{};
  store_be64(&data[0], unit.blocks() - 1);
  store_be32(&data[8], unit.block_size());
  data[13] = std::byte{unit.limits().physical_exponent};
  if (unit.limits().thin) data[14] = std::byte{0xc0};  // LBPME, LBPRZ
  unit.reply(task, data, load_be32(&task.cdb[10]));
}

void handle_synchronize_cache(LogicalUnit& unit, Task& task) {
  if (const auto sense = check_range(block_range(task.cdb), unit.blocks()))
    return unit.fail(task, *sense);
  // IMMED is answered when all is stable, too: earlier would be a promise.
  unit.flush(task, [](LogicalUnit& u, Task& t, int error) {
    if (!u.failed(t, error)) u.finish(t);
  });
}

void handle_pre_fetch(LogicalUnit& unit, Task& task) {
  if (const auto sense = check_range(block_range(task.cdb), unit.blocks()))
    return unit.fail(task, *sense);
  unit.finish(task);  // GOOD, not CONDITION MET: not all of it will be in a cache
}

void handle_read_defects(LogicalUnit& unit, Task& task) {
  // A file has no defects: both lists are there, and empty.
  const bool twelve = task.byte(0) == 0xb7;
  const std::uint8_t asked = task.byte(twelve ? 1 : 2);
  std::byte data[8]{};
  data[1] = std::byte{static_cast<std::uint8_t>(asked & 0x1f)};
  if (twelve) return unit.reply(task, data, load_be32(&task.cdb[6]));
  unit.reply(task, std::span(data).first(4), load_be16(&task.cdb[7]));
}

}  // namespace tidepool::scsi
