// Persistent reservations of one logical unit (SPC-4 5.13): who is registered with which
// key, who holds the reservation, and what that means for commands.
//
// Pure: no I/O, no lock. A registrant is known by its initiator port's TransportID, so
// that it outlives its sessions. There is one target port.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "scsi/command_table.h"
#include "scsi/sense.h"

namespace tidepool::scsi {

using PortId = std::string;  // an initiator port: the bytes of its TransportID

enum class ReservationType : std::uint8_t {
  none = 0,
  write_exclusive = 1,
  exclusive_access = 3,
  write_exclusive_registrants_only = 5,
  exclusive_access_registrants_only = 6,
  write_exclusive_all_registrants = 7,
  exclusive_access_all_registrants = 8,
};
// none for a code that is not one.
ReservationType reservation_type(std::uint8_t code);

struct Registrant {
  PortId port;
  std::uint64_t key = 0;
  bool all_target_ports = false;
  bool operator==(const Registrant&) const = default;
};

struct ReservationState {
  std::uint32_t generation = 0;
  bool through_power_loss = false;  // APTPL
  ReservationType type = ReservationType::none;
  PortId holder;  // empty for the types of all registrants
  std::vector<Registrant> registrants;
  bool operator==(const ReservationState&) const = default;
};

// PERSISTENT RESERVE OUT, parsed (reservation_parameters.h).
struct ReservationRequest {
  std::uint8_t action = 0;  // service action
  std::uint8_t scope = 0;
  std::uint8_t type = 0;
  std::uint64_t key = 0;
  std::uint64_t action_key = 0;
  bool through_power_loss = false;
  bool all_target_ports = false;
  bool unregister = false;         // REGISTER AND MOVE
  std::vector<PortId> more_ports;  // SPEC_I_PT; REGISTER AND MOVE: the one it goes to
};

struct ReservationOutcome {
  struct Notice {
    PortId port;
    std::uint16_t code = 0;  // the unit attention that it gets
  };
  Status status = Status::good;
  Sense sense;  // with check_condition
  std::vector<Notice> notices;
  std::vector<PortId> aborted;  // PREEMPT AND ABORT: whose tasks end
};

class PersistentReservations {
 public:
  PersistentReservations() = default;
  explicit PersistentReservations(ReservationState state) : state_(std::move(state)) {}

  const ReservationState& state() const { return state_; }
  bool any_registered() const { return !state_.registrants.empty(); }
  bool reserved() const { return state_.type != ReservationType::none; }
  bool registered(const PortId& port) const { return find(port) != nullptr; }
  bool holds(const PortId& port) const;
  // Whether a command of the port conflicts with the reservation.
  bool conflicts(const PortId& port, Access access) const;

  ReservationOutcome apply(const PortId& port, const ReservationRequest& request);

 private:
  const Registrant* find(const PortId& port) const;
  bool all_registrants() const;
  void set_key(const PortId& port, std::uint64_t key, bool all_target_ports);
  void remove(const PortId& port);
  void release();
  void notify_others(const PortId& port, std::uint16_t code, ReservationOutcome& outcome) const;

  ReservationOutcome do_register(const PortId& port, const ReservationRequest& request,
                                 bool ignore_key);
  ReservationOutcome do_reserve(const PortId& port, const ReservationRequest& request);
  ReservationOutcome do_release(const PortId& port, const ReservationRequest& request);
  ReservationOutcome do_clear(const PortId& port);
  ReservationOutcome do_preempt(const PortId& port, const ReservationRequest& request, bool abort);
  ReservationOutcome do_move(const PortId& port, const ReservationRequest& request);

  ReservationState state_;
};

}  // namespace tidepool::scsi
