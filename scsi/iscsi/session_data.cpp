// A command's data and answer: R2T and Data-Out, Data-In, SCSI Response with its residuals.
#include <algorithm>
#include <cstring>

#include "scsi/iscsi/session.h"

namespace tidepool::scsi::iscsi {

void Session::want_data(Task& task) {
  Command& command = commands_.at(static_cast<std::uint32_t>(task.tag));
  DataBuffer whole = DataBuffer::allocate(command.expected);
  if (whole.size() == 0) {
    // The handler finds less than it wants, and says so.
    task.data_out_length = 0;
    return command.unit->data_arrived(task.id);
  }
  if (command.immediate > 0) std::memcpy(whole.data(), command.data.data(), command.immediate);
  command.data = std::move(whole);
  task.data_out = command.data;
  send_r2t(command);
}

void Session::send_r2t(Command& command) {
  const std::uint32_t length =
      std::min(command.expected - command.received, parameters_.burst_length);
  command.transfer_tag = next_transfer_tag_++;
  if (next_transfer_tag_ == no_tag) next_transfer_tag_ = 1;
  command.burst_end = command.received + length;
  command.data_number = 0;
  OutPdu pdu{make_header(Opcode::r2t, command.request.task_tag())};
  pdu.header.set_u64(8, command.request.lun());
  pdu.header.set_u32(20, command.transfer_tag);
  pdu.header.set_u32(36, command.r2t_number++);
  pdu.header.set_u32(40, command.received);
  pdu.header.set_u32(44, length);
  send(std::move(pdu), false);
}

Result<Session::Destination> Session::begin_data_out(const Header& header) {
  const auto found = commands_.find(header.task_tag());
  // Of a command that was aborted, or refused before its data came.
  if (found == commands_.end()) return Destination{.discard = true};
  Command& command = found->second;
  const std::uint32_t length = header.data_length();
  if (header.u32(20) != command.transfer_tag || command.transfer_tag == no_tag)
    return broken("data out that nobody asked for");
  if (header.u32(36) != command.data_number) {
    fail_data_phase(header.task_tag());
    return Destination{.discard = true};
  }
  if (header.u32(40) != command.received || length > command.burst_end - command.received)
    return broken("data out with a wrong offset or length");
  if (header.final() != (command.received + length == command.burst_end))
    return broken("data out that ends before or after its burst");
  return Destination{.memory = command.data, .offset = command.received};
}

void Session::fail_data_phase(std::uint32_t tag) {
  Command command;
  command.request = commands_.at(tag).request;
  command.expected = commands_.at(tag).expected;
  command.writes = true;
  abort_command(tag);
  Task failed;
  failed.status = Status::check_condition;
  failed.sense =
      encode_sense({.key = SenseKey::aborted_command, .code = asc::data_phase_error}, false);
  send_response(command, failed);
  start_held();
}

Result<> Session::receive_data_out(const Header& header) {
  const auto found = commands_.find(header.task_tag());
  if (found == commands_.end()) return {};
  Command& command = found->second;
  command.received += header.data_length();
  ++command.data_number;
  if (command.received < command.burst_end) return {};
  command.transfer_tag = no_tag;
  if (command.received < command.expected) {
    send_r2t(command);
    return {};
  }
  command.unit->data_arrived(command.id);
  return {};
}

namespace {

constexpr std::uint8_t overflow_bit = 0x04, underflow_bit = 0x02;

struct Residual {
  std::uint8_t flags = 0;
  std::uint32_t count = 0;  // bytes
};

// moved: what the command moved or would have; expected: what the initiator said.
Residual residual_of(std::uint32_t moved, std::uint32_t expected) {
  if (moved > expected) return {overflow_bit, moved - expected};
  if (moved < expected) return {underflow_bit, expected - moved};
  return {};
}

}  // namespace

void Session::send_data_in(const Command& command, Task& task, std::uint32_t length,
                           bool with_status) {
  std::uint32_t offset = 0, number = 0, in_burst = 0;
  while (offset < length) {
    std::uint32_t piece = std::min(length - offset, parameters_.initiator_segment_length);
    piece = std::min(piece, parameters_.burst_length - in_burst);
    in_burst += piece;
    const bool last = offset + piece == length;
    const bool ends_burst = last || in_burst == parameters_.burst_length;
    OutPdu pdu{make_header(Opcode::data_in, command.request.task_tag(), ends_burst)};
    pdu.header.set_data_length(piece);
    pdu.header.set_u32(20, no_tag);
    pdu.header.set_u32(36, number++);
    pdu.header.set_u32(40, offset);
    pdu.memory = task.data_in;
    pdu.in_memory = std::span(task.data_in.data() + offset, piece);
    const bool status = last && with_status;
    if (status) {
      const Residual residual = residual_of(task.data_in_length, command.expected);
      pdu.header.set_u8(1, 0x80 | 0x01 | residual.flags);
      pdu.header.set_u8(3, static_cast<std::uint8_t>(task.status));
      pdu.header.set_u32(44, residual.count);
    }
    send(std::move(pdu), status);
    if (ends_burst) in_burst = 0;
    offset += piece;
  }
}

void Session::send_response(const Command& command, const Task& task) {
  OutPdu pdu{make_header(Opcode::scsi_response, command.request.task_tag())};
  const std::uint32_t moved = command.writes ? task.data_out_wanted : task.data_in_length;
  const Residual residual = residual_of(moved, command.expected);
  pdu.header.set_u8(1, 0x80 | residual.flags);
  pdu.header.set_u8(3, static_cast<std::uint8_t>(task.status));
  pdu.header.set_u32(44, residual.count);
  if (!task.sense.empty()) {
    pdu.own.resize(2);
    store_be16(pdu.own.data(), task.sense.size());
    pdu.own.insert(pdu.own.end(), task.sense.begin(), task.sense.end());
    pdu.header.set_data_length(pdu.own.size());
  }
  send(std::move(pdu), true);
}

}  // namespace tidepool::scsi::iscsi
