// Sense data: why a command ended with CHECK CONDITION (SPC-4, 4.5).
//
// Pure. A Sense is built where the fault is found and encoded when the task ends,
// in the format that the Control mode page asks for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace tidepool::scsi {

enum class Status : std::uint8_t {
  good = 0x00,
  check_condition = 0x02,
  condition_met = 0x04,
  busy = 0x08,
  reservation_conflict = 0x18,
  task_set_full = 0x28,
};

enum class SenseKey : std::uint8_t {
  no_sense = 0x0,
  not_ready = 0x2,
  medium_error = 0x3,
  hardware_error = 0x4,
  illegal_request = 0x5,
  unit_attention = 0x6,
  data_protect = 0x7,
  copy_aborted = 0xa,
  aborted_command = 0xb,
  miscompare = 0xe,
};

// ADDITIONAL SENSE CODE << 8 | QUALIFIER, by their names in SPC-4's annex.
namespace asc {
inline constexpr std::uint16_t none = 0x0000;
inline constexpr std::uint16_t self_configuration_in_progress = 0x0401;
inline constexpr std::uint16_t sanitize_in_progress = 0x041b;
inline constexpr std::uint16_t unreachable_copy_target = 0x0804;
inline constexpr std::uint16_t write_error = 0x0c00;
inline constexpr std::uint16_t invalid_field_in_command_information_unit = 0x0e03;
inline constexpr std::uint16_t unrecovered_read_error = 0x1100;
inline constexpr std::uint16_t parameter_list_length_error = 0x1a00;
inline constexpr std::uint16_t miscompare_during_verify = 0x1d00;
inline constexpr std::uint16_t invalid_opcode = 0x2000;
inline constexpr std::uint16_t lba_out_of_range = 0x2100;
inline constexpr std::uint16_t invalid_field_in_cdb = 0x2400;
inline constexpr std::uint16_t logical_unit_not_supported = 0x2500;
inline constexpr std::uint16_t invalid_field_in_parameter_list = 0x2600;
inline constexpr std::uint16_t invalid_release_of_reservation = 0x2604;
inline constexpr std::uint16_t too_many_target_descriptors = 0x2606;
inline constexpr std::uint16_t unsupported_target_descriptor = 0x2607;
inline constexpr std::uint16_t too_many_segment_descriptors = 0x2608;
inline constexpr std::uint16_t unsupported_segment_descriptor = 0x2609;
inline constexpr std::uint16_t write_protected = 0x2700;
inline constexpr std::uint16_t software_write_protected = 0x2702;
inline constexpr std::uint16_t space_allocation_failed = 0x2707;
inline constexpr std::uint16_t medium_may_have_changed = 0x2800;
inline constexpr std::uint16_t power_on = 0x2900;
inline constexpr std::uint16_t bus_device_reset = 0x2903;
inline constexpr std::uint16_t nexus_loss = 0x2907;
inline constexpr std::uint16_t mode_parameters_changed = 0x2a01;
inline constexpr std::uint16_t reservations_preempted = 0x2a03;
inline constexpr std::uint16_t reservations_released = 0x2a04;
inline constexpr std::uint16_t registrations_preempted = 0x2a05;
inline constexpr std::uint16_t capacity_data_changed = 0x2a09;
inline constexpr std::uint16_t commands_cleared = 0x2f00;
inline constexpr std::uint16_t sanitize_command_failed = 0x3103;
inline constexpr std::uint16_t saving_not_supported = 0x3900;
inline constexpr std::uint16_t medium_not_present = 0x3a00;
inline constexpr std::uint16_t internal_target_failure = 0x4400;
inline constexpr std::uint16_t invalid_message = 0x4900;
inline constexpr std::uint16_t data_phase_error = 0x4b00;
inline constexpr std::uint16_t medium_removal_prevented = 0x5302;
inline constexpr std::uint16_t insufficient_registration_resources = 0x5504;
}  // namespace asc

struct Sense {
  SenseKey key = SenseKey::no_sense;
  std::uint16_t code = asc::none;
  std::optional<std::uint64_t> information;  // what the code says it is: an LBA, an offset
  std::optional<std::uint16_t> progress;     // of 65,536, for an operation under way
  std::optional<std::uint16_t> field;        // the first byte at fault of the CDB or parameter list

  bool operator==(const Sense&) const = default;
};

inline constexpr Sense illegal_request(std::uint16_t code) {
  return {.key = SenseKey::illegal_request, .code = code};
}
inline constexpr Sense invalid_cdb_field(std::uint16_t byte) {
  return {.key = SenseKey::illegal_request, .code = asc::invalid_field_in_cdb, .field = byte};
}
inline constexpr Sense invalid_parameter(std::uint16_t byte) {
  return {.key = SenseKey::illegal_request,
          .code = asc::invalid_field_in_parameter_list,
          .field = byte};
}

inline constexpr std::size_t largest_sense = 28;  // bytes

std::vector<std::byte> encode_sense(const Sense& sense, bool descriptor_format);

}  // namespace tidepool::scsi
