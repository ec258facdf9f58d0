// RESERVE and RELEASE of SPC-2, PERSISTENT RESERVE IN and OUT.
//
// The two kinds exclude each other: with a registrant RESERVE and RELEASE conflict, with a
// reservation by RESERVE the persistent commands do.
#include "scsi/big_endian.h"
#include "scsi/handlers.h"
#include "scsi/logical_unit.h"
#include "scsi/reservation_parameters.h"

namespace tidepool::scsi {

void handle_reserve(LogicalUnit& unit, Task& task) {
  const NexusId holder = unit.legacy_holder();
  if (unit.reservations().any_registered() || (holder != 0 && holder != task.nexus))
    return unit.finish(task, Status::reservation_conflict);
  unit.set_legacy_holder(task.nexus);
  unit.finish(task);
}

void handle_release(LogicalUnit& unit, Task& task) {
  if (unit.reservations().any_registered()) return unit.finish(task, Status::reservation_conflict);
  // Of one who holds none: nothing to do, and no error.
  if (unit.legacy_holder() == task.nexus) unit.set_legacy_holder(0);
  unit.finish(task);
}

void handle_persistent_in(LogicalUnit& unit, Task& task) {
  if (unit.legacy_holder() != 0 && unit.legacy_holder() != task.nexus)
    return unit.finish(task, Status::reservation_conflict);
  if (!unit.reservations_known()) return unit.finish(task, Status::busy);
  const PersistentReservations& reservations = unit.reservations();
  const std::uint16_t allocation = load_be16(&task.cdb[7]);
  switch (service_action_of(task.cdb)) {
    case 0:
      return unit.reply(task, encode_keys(reservations.state()), allocation);
    case 1:
      return unit.reply(task, encode_reservation(reservations.state()), allocation);
    case 2:
      return unit.reply(task,
                        encode_capabilities(reservations.state(), unit.reservations_can_persist()),
                        allocation);
    default:
      return unit.reply(task, encode_full_status(reservations, unit.identity().relative_port),
                        allocation);
  }
}

void handle_persistent_out(LogicalUnit& unit, Task& task) {
  if (unit.legacy_holder() != 0) return unit.finish(task, Status::reservation_conflict);
  const std::uint32_t length = load_be32(&task.cdb[5]);
  task.data_out_wanted = length;
  if (task.data_out_length < length)
    return unit.fail(task, illegal_request(asc::parameter_list_length_error));
  const auto request = parse_reservation_request(task.cdb, task.data_out.span().first(length));
  if (!request) return unit.fail(task, request.error());
  if (request->through_power_loss && !unit.reservations_can_persist())
    return unit.fail(task, invalid_parameter(request->action == 7 ? 17 : 20));
  unit.change_reservations(task, *request);
}

}  // namespace tidepool::scsi
