// Every command that a logical unit knows, one row each: what its CDB may hold, who may
// send it against a reservation, what it needs, and who carries it out.
//
// The one place where a command is made known: dispatch, the reservation check and
// REPORT SUPPORTED OPERATION CODES all read it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "scsi/cdb.h"

namespace tidepool::scsi {

class LogicalUnit;
struct Task;

// What a reservation held by another nexus means for a command (SPC-4 table 69, SBC-3
// table 13).
enum class Access : std::uint8_t {
  always,      // not affected
  read,        // refused by exclusive access
  write,       // refused by write exclusive, too
  own_checks,  // depends on fields: the handler asks
};

enum Need : std::uint8_t {
  nothing = 0,
  medium = 1,            // a loaded medium
  writable = 2,          // no write protection
  while_sanitizing = 4,  // is carried out during and after a failed SANITIZE
  before_attention = 8,  // is carried out though a unit attention is pending
  thin = 16,             // a unit that gives space back; others do not have the command
  alone = 32,            // a unit that no other host serves; others do not have the command
};

struct Command {
  std::uint8_t opcode = 0;
  std::optional<std::uint16_t> service_action;
  const char* name = "";
  std::array<std::uint8_t, 16> usage{};  // the bits of the CDB that have a meaning
  Access access = Access::always;
  std::uint8_t needs = nothing;
  void (*handle)(LogicalUnit& unit, Task& task) = nullptr;

  unsigned length() const { return cdb_length(opcode); }
  std::span<const std::uint8_t> usage_bytes() const { return std::span(usage).first(length()); }
};

std::span<const Command> command_table();

// The service action that the CDB holds, as far as its operation code has any.
std::uint16_t service_action_of(const Cdb& cdb);

struct Lookup {
  const Command* command = nullptr;
  bool opcode_known = false;
};
Lookup find_command(std::uint8_t opcode, std::uint16_t service_action);

}  // namespace tidepool::scsi
