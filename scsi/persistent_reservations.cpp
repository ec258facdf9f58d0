#include "scsi/persistent_reservations.h"

#include <algorithm>

namespace tidepool::scsi {

namespace {

using enum ReservationType;

ReservationOutcome refused(const Sense& sense) {
  return {.status = Status::check_condition, .sense = sense};
}
ReservationOutcome conflict() { return {.status = Status::reservation_conflict}; }

bool of_all_registrants(ReservationType type) {
  return type == write_exclusive_all_registrants || type == exclusive_access_all_registrants;
}
// Those whose loss the other registrants are told of.
bool shared_by_registrants(ReservationType type) {
  return of_all_registrants(type) || type == write_exclusive_registrants_only ||
         type == exclusive_access_registrants_only;
}
bool excludes_reads(ReservationType type) {
  return type == exclusive_access || type == exclusive_access_registrants_only ||
         type == exclusive_access_all_registrants;
}

}  // namespace

ReservationType reservation_type(std::uint8_t code) {
  switch (code) {
    case 1:
    case 3:
    case 5:
    case 6:
    case 7:
    case 8:
      return static_cast<ReservationType>(code);
    default:
      return none;
  }
}

const Registrant* PersistentReservations::find(const PortId& port) const {
  const auto found = std::ranges::find(state_.registrants, port, &Registrant::port);
  return found == state_.registrants.end() ? nullptr : &*found;
}

bool PersistentReservations::all_registrants() const { return of_all_registrants(state_.type); }

bool PersistentReservations::holds(const PortId& port) const {
  if (!reserved()) return false;
  return all_registrants() ? registered(port) : state_.holder == port;
}

bool PersistentReservations::conflicts(const PortId& port, Access access) const {
  if (!reserved() || access == Access::always || holds(port)) return false;
  if (access == Access::read && !excludes_reads(state_.type)) return false;
  if (shared_by_registrants(state_.type)) return !registered(port);
  return true;
}

void PersistentReservations::set_key(const PortId& port, std::uint64_t key, bool all_target_ports) {
  const auto found = std::ranges::find(state_.registrants, port, &Registrant::port);
  if (found == state_.registrants.end())
    state_.registrants.push_back({port, key, all_target_ports});
  else
    *found = {port, key, all_target_ports};
}

void PersistentReservations::remove(const PortId& port) {
  std::erase_if(state_.registrants, [&](const Registrant& r) { return r.port == port; });
}

void PersistentReservations::release() {
  state_.type = none;
  state_.holder.clear();
}

void PersistentReservations::notify_others(const PortId& port, std::uint16_t code,
                                           ReservationOutcome& outcome) const {
  for (const Registrant& registrant : state_.registrants)
    if (registrant.port != port) outcome.notices.push_back({registrant.port, code});
}

ReservationOutcome PersistentReservations::apply(const PortId& port,
                                                 const ReservationRequest& request) {
  const bool registering = request.action == 0 || request.action == 6;
  if (!registering) {
    const Registrant* const registrant = find(port);
    if (registrant == nullptr || registrant->key != request.key) return conflict();
  }
  switch (request.action) {
    case 0:
      return do_register(port, request, false);
    case 1:
      return do_reserve(port, request);
    case 2:
      return do_release(port, request);
    case 3:
      return do_clear(port);
    case 4:
      return do_preempt(port, request, false);
    case 5:
      return do_preempt(port, request, true);
    case 6:
      return do_register(port, request, true);
    case 7:
      return do_move(port, request);
    default:
      return refused(invalid_cdb_field(1));
  }
}

ReservationOutcome PersistentReservations::do_register(const PortId& port,
                                                       const ReservationRequest& request,
                                                       bool ignore_key) {
  const Registrant* const known = find(port);
  if (!ignore_key && request.key != (known != nullptr ? known->key : 0)) return conflict();
  if (!request.more_ports.empty() && (known != nullptr || ignore_key || request.action_key == 0))
    return refused(invalid_parameter(20));
  ReservationOutcome outcome;
  if (request.action_key == 0) {
    if (known == nullptr) return outcome;
    const bool held = holds(port);
    const ReservationType type = state_.type;
    remove(port);
    const bool over = all_registrants() ? state_.registrants.empty() : held;
    if (held && over) {
      release();
      if (shared_by_registrants(type)) notify_others(port, asc::reservations_released, outcome);
    }
  } else {
    set_key(port, request.action_key, request.all_target_ports);
    for (const PortId& other : request.more_ports)
      if (find(other) == nullptr) set_key(other, request.action_key, request.all_target_ports);
  }
  state_.through_power_loss = request.through_power_loss;
  ++state_.generation;
  return outcome;
}

ReservationOutcome PersistentReservations::do_reserve(const PortId& port,
                                                      const ReservationRequest& request) {
  const ReservationType type = reservation_type(request.type);
  if (request.scope != 0 || type == none) return refused(invalid_cdb_field(2));
  if (reserved()) return holds(port) && state_.type == type ? ReservationOutcome{} : conflict();
  state_.type = type;
  if (!of_all_registrants(type)) state_.holder = port;
  return {};
}

ReservationOutcome PersistentReservations::do_release(const PortId& port,
                                                      const ReservationRequest& request) {
  ReservationOutcome outcome;
  if (!holds(port)) return outcome;
  if (request.scope != 0 || reservation_type(request.type) != state_.type)
    return refused(illegal_request(asc::invalid_release_of_reservation));
  const ReservationType type = state_.type;
  release();
  if (shared_by_registrants(type)) notify_others(port, asc::reservations_released, outcome);
  return outcome;
}

ReservationOutcome PersistentReservations::do_clear(const PortId& port) {
  ReservationOutcome outcome;
  notify_others(port, asc::reservations_preempted, outcome);
  release();
  state_.registrants.clear();
  ++state_.generation;
  return outcome;
}

ReservationOutcome PersistentReservations::do_preempt(const PortId& port,
                                                      const ReservationRequest& request,
                                                      bool abort) {
  const std::uint64_t victim = request.action_key;
  const bool everyone = all_registrants() && victim == 0;
  if (victim == 0 && !everyone) return refused(invalid_parameter(8));
  bool takes_over = everyone;
  if (reserved() && !all_registrants()) {
    const Registrant* const holder = find(state_.holder);
    takes_over = holder != nullptr && holder->key == victim;
  }
  const ReservationType type = reservation_type(request.type);
  if (takes_over && (request.scope != 0 || type == none)) return refused(invalid_cdb_field(2));

  ReservationOutcome outcome;
  bool found = takes_over;
  std::vector<Registrant> kept;
  for (const Registrant& registrant : state_.registrants) {
    const bool meant = everyone || registrant.key == victim;
    found = found || meant;
    // The one who takes the reservation stays registered, whatever its key.
    if (!meant || (takes_over && registrant.port == port)) {
      kept.push_back(registrant);
      continue;
    }
    if (registrant.port != port)
      outcome.notices.push_back({registrant.port, asc::registrations_preempted});
    if (abort) outcome.aborted.push_back(registrant.port);
  }
  if (!found) return conflict();
  const ReservationType before = state_.type;
  state_.registrants = std::move(kept);
  if (takes_over) {
    state_.type = type;
    state_.holder = of_all_registrants(type) ? PortId{} : port;
    if (before != type && shared_by_registrants(before))
      notify_others(port, asc::reservations_released, outcome);
  } else if (all_registrants() && state_.registrants.empty()) {
    release();
  }
  ++state_.generation;
  return outcome;
}

ReservationOutcome PersistentReservations::do_move(const PortId& port,
                                                   const ReservationRequest& request) {
  if (!holds(port) || all_registrants()) return conflict();
  if (request.action_key == 0) return refused(invalid_parameter(8));
  if (request.more_ports.size() != 1 || request.more_ports.front() == port)
    return refused(invalid_parameter(24));
  const PortId& other = request.more_ports.front();
  set_key(other, request.action_key, false);
  state_.holder = other;
  if (request.unregister) remove(port);
  state_.through_power_loss = request.through_power_loss;
  ++state_.generation;
  return {};
}

}  // namespace tidepool::scsi
