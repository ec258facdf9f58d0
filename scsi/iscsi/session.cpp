#include "scsi/iscsi/session.h"

#include <algorithm>

#include "base/log.h"

namespace tidepool::scsi::iscsi {

namespace {

constexpr std::uint64_t most_under_way = 64u << 20;    // bytes of data of one session
constexpr std::uint32_t largest_data_out = 32u << 20;  // bytes of one command
constexpr std::uint8_t read_bit = 0x40, write_bit = 0x20;

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
  task->data_in_room = command.reads ? command.expected : 0;
  // The command may be over, and gone, when submit() returns.
  const std::uint64_t lun = command.request.lun();
  command.unit = device.find(lun);
  if (command.unit != nullptr) command.id = command.unit->next_id();
  device.submit(lun, std::move(task));
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

}  // namespace tidepool::scsi::iscsi
