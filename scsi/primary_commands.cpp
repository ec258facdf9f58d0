// The commands of every SCSI device (SPC-4): who are you, how are you, what can you do.
#include <algorithm>

#include "scsi/big_endian.h"
#include "scsi/handlers.h"
#include "scsi/logical_unit.h"
#include "scsi/lun_list.h"

namespace tidepool::scsi {

void handle_test_unit_ready(LogicalUnit& unit, Task& task) { unit.finish(task); }

void handle_request_sense(LogicalUnit& unit, Task& task) {
  const bool descriptor = (task.cdb[1] & std::byte{1}) != std::byte{0};
  Sense sense;
  Nexus& nexus = unit.nexus_of(task);
  if (unit.sanitize().running()) {
    sense = {.key = SenseKey::not_ready,
             .code = asc::sanitize_in_progress,
             .progress = unit.sanitize().progress()};
  } else if (!nexus.attentions.empty()) {
    sense = {.key = SenseKey::unit_attention, .code = nexus.attentions.front()};
    nexus.attentions.pop_front();
  } else if (!unit.loaded()) {
    sense = {.key = SenseKey::not_ready, .code = asc::medium_not_present};
  }
  unit.reply(task, encode_sense(sense, descriptor), task.byte(4));
}

void handle_inquiry(LogicalUnit& unit, Task& task) {
  const bool vital = (task.byte(1) & 1) != 0;
  const std::uint8_t page = task.byte(2);
  const std::uint16_t allocation = load_be16(&task.cdb[3]);
  if (!vital) {
    if (page != 0) return unit.fail(task, invalid_cdb_field(2));
    return unit.reply(task, standard_inquiry(unit.identity()), allocation);
  }
  const auto data = vpd_page(page, unit.identity(), unit.limits());
  if (!data) return unit.fail(task, invalid_cdb_field(2));
  unit.reply(task, *data, allocation);
}

void handle_mode_sense(LogicalUnit& unit, Task& task) {
  ModeSenseRequest request;
  request.ten = task.byte(0) == 0x5a;
  request.descriptor = (task.byte(1) & 0x08) == 0;
  request.long_lba = request.ten && (task.byte(1) & 0x10) != 0;
  request.control = task.byte(2) >> 6;
  request.page = task.byte(2) & 0x3f;
  request.subpage = task.byte(3);
  const auto data = mode_sense(request, unit.mode(), unit.mode_context());
  if (!data) return unit.fail(task, data.error());
  unit.reply(task, *data, request.ten ? load_be16(&task.cdb[7]) : task.byte(4));
}

void handle_mode_select(LogicalUnit& unit, Task& task) {
  const bool ten = task.byte(0) == 0x55;
  const std::uint32_t length = ten ? load_be16(&task.cdb[7]) : task.byte(4);
  if ((task.byte(1) & 0x01) != 0) return unit.fail(task, invalid_cdb_field(1));  // SP
  if (length > 0 && (task.byte(1) & 0x10) == 0)  // PF: pages in the standard's format only
    return unit.fail(task, invalid_cdb_field(1));
  task.data_out_wanted = length;
  if (task.data_out_length < length)
    return unit.fail(task, illegal_request(asc::parameter_list_length_error));
  const auto changed =
      mode_select(task.data_out.span().first(length), ten, unit.mode(), unit.mode_context());
  if (!changed) return unit.fail(task, changed.error());
  unit.change_mode(task, *changed);
  unit.finish(task);
}

std::vector<std::byte> encode_lun_list(std::span<const std::uint64_t> luns) {
  std::vector<std::byte> out(8 + 8 * luns.size());
  store_be32(&out[0], 8 * luns.size());
  for (std::size_t i = 0; i < luns.size(); ++i) store_be64(&out[8 + 8 * i], luns[i]);
  return out;
}

void handle_report_luns(LogicalUnit& unit, Task& task) {
  const std::uint32_t allocation = load_be32(&task.cdb[6]);
  const std::uint8_t select = task.byte(2);
  if (select > 2) return unit.fail(task, invalid_cdb_field(2));
  if (allocation < 16) return unit.fail(task, invalid_cdb_field(6));
  // 1 asks for well known logical units: there are none.
  const auto luns = select == 1 ? std::vector<std::uint64_t>{} : unit.directory().luns();
  unit.reply(task, encode_lun_list(luns), allocation);
}

namespace {

constexpr std::size_t timeouts_bytes = 12;

void append_timeouts(std::vector<std::byte>& out) {
  out.resize(out.size() + timeouts_bytes);
  store_be16(&out[out.size() - timeouts_bytes], timeouts_bytes - 2);
}

std::vector<std::byte> all_commands(const LogicalUnit& unit, bool timeouts) {
  std::vector<std::byte> out(4);
  for (const Command& command : command_table()) {
    if (!unit.has(command)) continue;
    std::byte entry[8]{};
    entry[0] = std::byte{command.opcode};
    store_be16(&entry[2], command.service_action.value_or(0));
    if (timeouts) entry[5] |= std::byte{0x02};                // CTDP
    if (command.service_action) entry[5] |= std::byte{0x01};  // SERVACTV
    store_be16(&entry[6], command.length());
    out.insert(out.end(), std::begin(entry), std::end(entry));
    if (timeouts) append_timeouts(out);
  }
  store_be32(&out[0], out.size() - 4);
  return out;
}

std::vector<std::byte> one_command(const Command* command, bool timeouts) {
  std::vector<std::byte> out(4);
  if (command == nullptr) {
    out[1] = std::byte{0x01};  // not supported
    return out;
  }
  out[1] = std::byte{0x03};  // supported as the standard has it
  if (timeouts) out[1] |= std::byte{0x80};
  auto usage = command->usage;
  if (command->service_action)
    usage[1] = static_cast<std::uint8_t>((usage[1] & 0xe0) | *command->service_action);
  store_be16(&out[2], command->length());
  for (unsigned i = 0; i < command->length(); ++i) out.push_back(std::byte{usage[i]});
  if (timeouts) append_timeouts(out);
  return out;
}

}  // namespace

void handle_report_opcodes(LogicalUnit& unit, Task& task) {
  const bool timeouts = (task.byte(2) & 0x80) != 0;
  const std::uint8_t option = task.byte(2) & 0x07;
  const std::uint8_t opcode = task.byte(3);
  const std::uint16_t action = load_be16(&task.cdb[4]);
  const std::uint32_t allocation = load_be32(&task.cdb[6]);
  if (option == 0) return unit.reply(task, all_commands(unit, timeouts), allocation);
  if (option > 3) return unit.fail(task, invalid_cdb_field(2));
  const auto of_opcode = [&](const Command& c) { return c.opcode == opcode; };
  const auto first = std::ranges::find_if(command_table(), of_opcode);
  const bool known = first != command_table().end();
  const bool has_actions = known && first->service_action.has_value();
  // 1 asks for a command without service actions, 2 for one with; 3 takes either.
  if (known && ((option == 1 && has_actions) || (option == 2 && !has_actions)))
    return unit.fail(task, invalid_cdb_field(2));
  const Command* command = find_command(opcode, has_actions ? action : 0).command;
  if (option == 3 && !has_actions && action != 0) command = nullptr;
  if (command != nullptr && !unit.has(*command)) command = nullptr;
  unit.reply(task, one_command(command, timeouts), allocation);
}

void handle_report_tmf(LogicalUnit& unit, Task& task) {
  const bool extended = (task.byte(2) & 0x80) != 0;  // REPD
  const std::uint32_t allocation = load_be32(&task.cdb[6]);
  if (allocation < 4) return unit.fail(task, invalid_cdb_field(6));
  std::vector<std::byte> out(extended ? 16 : 4);
  out[0] = std::byte{0xd8};  // ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET
  if (extended) out[3] = std::byte{12};
  unit.reply(task, out, allocation);
}

}  // namespace tidepool::scsi
