#include "scsi/iscsi/session.h"

#include <algorithm>
#include <cstring>

#include "base/log.h"

namespace tidepool::scsi::iscsi {

namespace {

constexpr std::uint64_t most_under_way = 64u << 20;    // bytes of data of one session
constexpr std::uint32_t largest_data_out = 32u << 20;  // bytes of one command
constexpr std::uint8_t read_bit = 0x40, write_bit = 0x20;

std::unexpected<Error> broken(const char* what) {
  return fail(ErrorKind::invalid_argument, "{}", what);
}

}  // namespace

PortId transport_id(const SessionIdentity& identity) {
  // Protocol iSCSI, format 01b: the name with the ISID.
  std::string name = identity.initiator + fmt::format(",i,0x{:012x}", identity.isid);
  name.resize(padded(name.size() + 1));
  PortId out("\x45\0", 2);
  out += static_cast<char>(name.size() >> 8);
  out += static_cast<char>(name.size() & 0xff);
  return out + name;
}

Session::Session(TargetSide& target, Wire& wire, const Login& login)
    : target_(target),
      wire_(wire),
      identity_{login.initiator(), login.isid(), login.discovery()},
      parameters_(login.parameters()),
      connection_(login.connection()),
      status_number_(login.next_status_number()),
      expected_command_(login.expected_command()),
      last_told_(login.expected_command() + 1) {
  if (!identity_.discovery) nexus_ = target_.device().connect(transport_id(identity_));
}

Session::~Session() {
  if (nexus_ != 0) target_.device().disconnect(nexus_);
}

std::uint32_t Session::last_command() const {
  const auto used = static_cast<std::uint32_t>(commands_.size());
  const std::uint32_t room = used < queue_depth ? queue_depth - used : 0;
  const std::uint32_t now = expected_command_ + room - 1;
  return serial_before(last_told_, now) ? now : last_told_;
}

void Session::send(OutPdu pdu, bool counts) {
  pdu.header.set_status_number(status_number_);
  if (counts) ++status_number_;
  last_told_ = last_command();
  pdu.header.set_expected_command(expected_command_);
  pdu.header.set_last_command(last_told_);
  wire_.send(std::move(pdu));
}

// Whether the PDU is the next of its session; if not it is ignored, as RFC 7143 4.2.2.1 has it.
Result<bool> Session::take_number(const Header& header) {
  const std::uint32_t number = header.command_number();
  if (header.immediate()) return true;
  if (serial_before(number, expected_command_) || serial_before(last_told_, number)) return false;
  // On one connection commands come in order: a gap can never be filled.
  if (number != expected_command_) return broken("a command's number is missing");
  ++expected_command_;
  return true;
}

Result<Session::Destination> Session::begin(const Header& header,
                                            std::span<const std::byte> extra_header) {
  if (header.data_length() > our_segment_length) return broken("a data segment is too long");
  accepted_.reset();
  if (header.opcode() == Opcode::data_out) return begin_data_out(header);
  const auto accepted = take_number(header);
  if (!accepted) return std::unexpected(accepted.error());
  accepted_ = *accepted;
  if (!*accepted) return Destination{.discard = true};
  if (header.opcode() == Opcode::scsi_command) return begin_command(header, extra_header);
  return Destination{.memory = DataBuffer::allocate(header.data_length())};
}

Result<> Session::receive(const Header& header, std::span<const std::byte> data) {
  if (accepted_ && !*accepted_) return {};
  switch (header.opcode()) {
    case Opcode::scsi_command:
      return receive_command(header);
    case Opcode::data_out:
      return receive_data_out(header);
    case Opcode::task_management:
      return receive_task_management(header);
    case Opcode::text:
      return receive_text(header, data);
    case Opcode::logout:
      return receive_logout(header);
    case Opcode::nop_out:
      return receive_nop(header, data);
    default:
      reject(header, RejectReason::command_not_supported);
      return {};
  }
}

Result<Session::Destination> Session::begin_command(const Header& header,
                                                    std::span<const std::byte> extra) {
  const std::uint32_t length = header.data_length();
  if (nexus_ == 0) return Destination{.discard = true};
  if (commands_.contains(header.task_tag())) return broken("a task tag is used twice");
  if (commands_.size() >= 2 * queue_depth) return broken("too many immediate commands");
  Command command;
  command.request = header;
  command.expected = header.u32(20);
  command.reads = (header.u8(1) & read_bit) != 0;
  command.writes = (header.u8(1) & write_bit) != 0;
  if (length > 0 && (!command.writes || length > command.expected ||
                     length > parameters_.first_burst_length || !parameters_.immediate_data))
    return broken("immediate data that was not agreed on");
  if (!header.final()) return broken("unsolicited data that was not agreed on");
  command.immediate = length;
  command.data = DataBuffer::allocate(length);
  if (length > 0 && command.data.size() == 0) return broken("no memory for a command's data");
  auto task = std::make_unique<Task>();
  task->owner = this;
  task->nexus = nexus_;
  task->tag = header.task_tag();
  switch (header.u8(1) & 0x07) {
    case 2:
      task->attribute = TaskAttribute::ordered;
      break;
    case 3:
      task->attribute = TaskAttribute::head_of_queue;
      break;
    case 4:
      task->attribute = TaskAttribute::aca;
      break;
    default:
      break;
  }
  std::copy_n(&header.bytes[32], task->cdb.size(), task->cdb.begin());
  // What is longer than 16 bytes is no command of ours: neither is operation code 7Fh.
  if (!extra.empty()) task->cdb[0] = std::byte{0x7f};
  command.waiting = std::move(task);
  DataBuffer memory = command.data;
  commands_.emplace(header.task_tag(), std::move(command));
  return Destination{.memory = std::move(memory)};
}

Result<> Session::receive_command(const Header& header) {
  if (nexus_ == 0) {
    reject(header, RejectReason::command_not_supported);
    return {};
  }
  Command& command = commands_.at(header.task_tag());
  command.received = command.immediate;
  command.cost = std::min<std::uint64_t>(command.expected, largest_data_out);
  held_.push_back(header.task_tag());
  start_held();
  return {};
}

void Session::start_held() {
  if (starting_) return;
  starting_ = true;
  while (!held_.empty()) {
    Command& command = commands_.at(held_.front());
    // One alone may be as large as it likes.
    if (under_way_ > 0 && under_way_ + command.cost > most_under_way) break;
    held_.pop_front();
    under_way_ += command.cost;
    start(command);
  }
  starting_ = false;
}

void Session::start(Command& command) {
  std::unique_ptr<Task> task = std::move(command.waiting);
  Device& device = target_.device();
  if (command.writes && command.expected <= largest_data_out) {
    task->data_out_length = command.expected;
    task->data_complete = command.received == command.expected;
    if (task->data_complete) task->data_out = command.data;
  }
  // The command may be over, and gone, when submit() returns.
  const std::uint64_t lun = command.request.lun();
  command.unit = device.find(lun);
  if (command.unit != nullptr) command.id = command.unit->next_id();
  device.submit(lun, std::move(task));
}

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

void Session::forget(std::unordered_map<std::uint32_t, Command>::iterator command) {
  // One that is still held has not been counted.
  if (!command->second.waiting) under_way_ -= command->second.cost;
  commands_.erase(command);
}

void Session::finished(std::unique_ptr<Task> task) {
  const auto found = commands_.find(static_cast<std::uint32_t>(task->tag));
  Command command = std::move(found->second);
  under_way_ -= command.cost;
  commands_.erase(found);
  std::uint32_t in = 0;
  if (command.reads) in = std::min(task->data_in_length, command.expected);
  const bool collapses = task->status == Status::good && in > 0;
  if (in > 0) send_data_in(command, *task, in, collapses);
  if (!collapses) send_response(command, *task);
  start_held();
}

void Session::dropped(Task& task) {
  const bool was_full = !serial_before(expected_command_, last_told_ + 1);
  if (const auto found = commands_.find(static_cast<std::uint32_t>(task.tag));
      found != commands_.end())
    forget(found);
  // With nothing to be answered, nothing else would tell that there is room again.
  if (was_full) {
    OutPdu pdu{make_header(Opcode::nop_in, no_tag)};
    pdu.header.set_u32(20, no_tag);
    send(std::move(pdu), false);
  }
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

void Session::reject(const Header& header, RejectReason reason) {
  OutPdu pdu{make_header(Opcode::reject, no_tag)};
  pdu.header.set_u8(2, static_cast<std::uint8_t>(reason));
  pdu.own.assign(header.bytes.begin(), header.bytes.end());
  pdu.header.set_data_length(pdu.own.size());
  send(std::move(pdu), true);
}

task_management::Response Session::abort_command(std::uint32_t tag) {
  using enum task_management::Response;
  const auto found = commands_.find(tag);
  if (found == commands_.end()) return no_such_task;
  if (found->second.waiting) {
    std::erase(held_, tag);
    forget(found);
    return complete;
  }
  return found->second.unit->abort(found->second.id) ? complete : no_such_task;
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
