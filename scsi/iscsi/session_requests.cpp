// A session's requests that are no commands: task management, text, logout, ping.
#include <algorithm>

#include "scsi/iscsi/session.h"

namespace tidepool::scsi::iscsi {

void Session::reject(const Header& header, RejectReason reason) {
  OutPdu pdu{make_header(Opcode::reject, no_tag)};
  pdu.header.set_u8(2, static_cast<std::uint8_t>(reason));
  pdu.own.assign(header.bytes.begin(), header.bytes.end());
  pdu.header.set_data_length(pdu.own.size());
  send(std::move(pdu), true);
}

task_management::Response Session::manage(const Header& header,
                                          task_management::Function function) {
  using enum task_management::Response;
  using task_management::Function;
  LogicalUnit* const unit = target_.device().find(header.lun());
  // Held commands have not reached a logical unit yet.
  const auto drop_held = [&](bool of_all) {
    for (const std::uint32_t tag : std::deque(held_))
      if (of_all || commands_.at(tag).request.lun() == header.lun()) abort_command(tag);
  };
  switch (function) {
    case Function::abort_task:
      return abort_command(header.u32(20));
    case Function::abort_task_set:
    case Function::clear_task_set:
    case Function::logical_unit_reset:
      if (unit == nullptr) return no_such_lun;
      drop_held(false);
      if (function == Function::abort_task_set)
        unit->abort_tasks_of(nexus_);
      else if (function == Function::clear_task_set)
        unit->clear_tasks(nexus_);
      else
        unit->reset(asc::bus_device_reset);
      return complete;
    case Function::target_warm_reset:
      drop_held(true);
      target_.device().reset_all(asc::bus_device_reset);
      return complete;
    case Function::target_cold_reset:
      drop_held(true);
      target_.device().reset_all(asc::power_on);
      return complete;
    case Function::task_reassign:
      return reassign_not_supported;
    default:
      return not_supported;
  }
}

Result<> Session::receive_task_management(const Header& header) {
  if (nexus_ == 0) {
    reject(header, RejectReason::command_not_supported);
    return {};
  }
  const auto function = static_cast<task_management::Function>(header.u8(1) & 0x7f);
  const auto response = manage(header, function);
  OutPdu pdu{make_header(Opcode::task_management_response, header.task_tag())};
  pdu.header.set_u8(2, static_cast<std::uint8_t>(response));
  send(std::move(pdu), true);
  if (function == task_management::Function::target_cold_reset)
    target_.close_all_sessions();
  else
    start_held();
  return {};
}

Result<> Session::receive_text(const Header& header, std::span<const std::byte> data) {
  constexpr std::uint8_t continue_bit = 0x40;
  if ((header.u8(1) & continue_bit) != 0 || header.u32(20) != no_tag) {
    // Requests that go on in a second PDU are longer than any that makes sense here.
    reject(header, RejectReason::protocol_error);
    return {};
  }
  const auto pairs = parse_text(data);
  if (!pairs) return broken("text that is no list of keys and values");
  KeyValues answers;
  for (const auto& [key, value] : *pairs) {
    if (key != "SendTargets") {
      answers.emplace_back(key, "NotUnderstood");
      continue;
    }
    // All is for discovery sessions; others may ask for the target that they are at.
    const bool this_target = value == target_.name() || (value.empty() && !identity_.discovery);
    if (!this_target && !(value == "All" && identity_.discovery)) {
      answers.emplace_back(key, "Reject");
      continue;
    }
    const KeyValues addresses = target_.addresses(wire_.local_address());
    answers.insert(answers.end(), addresses.begin(), addresses.end());
  }
  OutPdu pdu{make_header(Opcode::text_response, header.task_tag())};
  pdu.own = format_text(answers);
  if (pdu.own.size() > parameters_.initiator_segment_length)
    return broken("the answer to a text request does not fit a PDU of the initiator's");
  pdu.header.set_data_length(pdu.own.size());
  pdu.header.set_u64(8, header.lun());
  pdu.header.set_u32(20, no_tag);
  send(std::move(pdu), true);
  return {};
}

Result<> Session::receive_logout(const Header& header) {
  constexpr std::uint8_t close_session = 0, close_connection = 1;
  constexpr std::uint8_t closed = 0, no_such_connection = 1, no_recovery = 2;
  const std::uint8_t reason = header.u8(1) & 0x7f;
  std::uint8_t response = closed;
  if (reason == close_connection && header.u16(20) != connection_)
    response = no_such_connection;
  else if (reason != close_session && reason != close_connection)
    response = no_recovery;
  OutPdu pdu{make_header(Opcode::logout_response, header.task_tag())};
  pdu.header.set_u8(2, response);
  send(std::move(pdu), true);
  if (response == closed) wire_.close_when_sent();
  return {};
}

Result<> Session::receive_nop(const Header& header, std::span<const std::byte> data) {
  if (header.task_tag() == no_tag) return {};  // answers a ping of ours, or only counts
  OutPdu pdu{make_header(Opcode::nop_in, header.task_tag())};
  const std::size_t length =
      std::min<std::size_t>(data.size(), parameters_.initiator_segment_length);
  pdu.own.assign(data.begin(), data.begin() + static_cast<std::ptrdiff_t>(length));
  pdu.header.set_data_length(length);
  pdu.header.set_u64(8, header.lun());
  pdu.header.set_u32(20, no_tag);
  send(std::move(pdu), true);
  return {};
}

}  // namespace tidepool::scsi::iscsi
