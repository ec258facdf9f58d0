// Hostile initiators: CDBs with whatever parameter lists, task management and resets between
// them, from two ports, against a logical unit in memory.
//
// An input is a list of steps: a byte of flags, a byte more, the length of the data, the CDB,
// the data.
#include <algorithm>
#include <array>

#include "base/codec.h"
#include "base/log.h"
#include "scsi/big_endian.h"
#include "tests/fuzz/target.h"
#include "tests/lib/scsi_initiator.h"

namespace tidepool::test {

using namespace scsi;

namespace {

constexpr std::uint64_t disk_bytes = 64 * 1024;
constexpr std::size_t most_data = 128 * 1024;
constexpr unsigned most_steps = 32;

enum Flag : std::uint8_t {
  second = 0x01,          // the other initiator
  attribute_mask = 0x06,  // simple, ordered, head of queue, ACA
  later = 0x08,           // the data comes when it is asked for
  absent = 0x10,          // another logical unit
  management = 0xe0,      // something else before the command, see manage()
};

void step(Input& input, std::initializer_list<unsigned> cdb, const Input& data = {},
          std::uint8_t flags = 0) {
  Encoder to(input);
  to.u8(flags);
  to.u16(static_cast<std::uint16_t>(data.size()));
  to.bytes(cdb_of(cdb));
  to.bytes(data);
}

Input list(std::initializer_list<unsigned> bytes, std::size_t size) {
  Input out(size);
  std::ranges::transform(bytes, out.begin(), [](unsigned b) { return static_cast<std::byte>(b); });
  return out;
}

Input ports_list() {
  Input out = list({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0x09}, 28);
  const PortId port = test_port("c");
  store_be32(&out[24], port.size());
  for (const char c : port) out.push_back(static_cast<std::byte>(c));
  return out;
}

void manage(ScsiDevice& device, ScsiInitiator& by, unsigned what) {
  LogicalUnit& unit = device.unit();
  switch (what) {
    case 1:
      return unit.abort_tasks_of(by.nexus());
    case 2:
      return unit.clear_tasks(by.nexus());
    case 3:
      return unit.reset(asc::bus_device_reset);
    case 4:
      return device.device().reset_all(asc::power_on);
    case 5:
      return (void)unit.abort(unit.next_id() - 1);
    default:
      return;
  }
}

}  // namespace

std::vector<Input> seeds() {
  std::vector<Input> inputs;
  const auto one = [&](std::initializer_list<unsigned> cdb, const Input& data = {}) {
    step(inputs.emplace_back(), cdb, data);
  };
  // Every command that there is, with an allocation length where it has one.
  for (const scsi::Command& command : command_table()) {
    Cdb cdb{};
    cdb[0] = std::byte{command.opcode};
    if (command.service_action) cdb[1] = static_cast<std::byte>(*command.service_action);
    for (const unsigned at : {4u, 7u, 9u, 13u})
      if (at < command.length() && (command.usage[at] & 0xfe) != 0) cdb[at] = std::byte{24};
    Input& input = inputs.emplace_back();
    Encoder to(input);
    to.u8(0);
    to.u16(512);
    to.bytes(cdb);
    to.bytes(Input(512));
  }
  one({0x2a, 0, 0, 0, 0, 4, 0, 0, 2}, Input(1024, std::byte{7}));
  one({0x42, 0, 0, 0, 0, 0, 0, 0, 40},
      list({0, 38, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 4}, 40));
  one({0x93, 0x08, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 16}, Input(512));
  one({0x89, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1}, Input(1024));
  one({0x48, 0x01, 0, 0, 0, 0, 0, 0, 8}, list({0x82, 0, 0, 4, 1, 2, 3, 4}, 8));
  one({0x15, 0x10, 0, 0, 24}, list({0, 0, 0, 0, 0x08, 0x12, 0}, 24));
  one({0x55, 0x10, 0, 0, 0, 0, 0, 0, 20}, list({0, 0, 0, 0, 0, 0, 0, 0, 0x0a, 0x0a, 4}, 20));
  one({0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 76},
      list({1, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 0, 0xe4, 0, 0, 0, 1, 3, 0, 16}, 76));
  Input& reservations = inputs.emplace_back();
  const Input registering = list({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 24);
  const Input holding = list({0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1}, 24);
  step(reservations, {0x5f, 0, 0, 0, 0, 0, 0, 0, 24}, registering);
  step(reservations, {0x5f, 1, 5, 0, 0, 0, 0, 0, 24}, holding);
  step(reservations, {0x5f, 6, 0, 0, 0, 0, 0, 0, 24}, registering, second | later);
  step(reservations, {0x2a, 0, 0, 0, 0, 0, 0, 0, 1}, Input(512), second);
  step(reservations, {0x5f, 5, 8, 0, 0, 0, 0, 0, 24}, holding, second);
  step(reservations, {0x5e, 3, 0, 0, 0, 0, 0, 1, 0});
  step(inputs.emplace_back(), {0x5f, 0, 0, 0, 0, 0, 0, 0, 68}, ports_list());
  Input& moved = inputs.emplace_back();
  step(moved, {0x5f, 0, 0, 0, 0, 0, 0, 0, 24}, registering);
  step(moved, {0x5f, 1, 1, 0, 0, 0, 0, 0, 24}, holding);
  Input move = ports_list();
  move.erase(move.begin() + 24, move.begin() + 28);
  move[7] = std::byte{1}, move[20] = std::byte{0};
  store_be32(&move[20], move.size() - 24);
  step(moved, {0x5f, 7, 0, 0, 0, 0, 0, 0, static_cast<unsigned>(move.size())}, move);
  return inputs;
}

void run_one(std::span<const std::byte> input) {
  log().set_level(spdlog::level::off);
  static const auto* const threads =
      new std::shared_ptr<ScsiDevice::Threads>(new ScsiDevice::Threads);
  ScsiDevice device(disk_bytes, {.threads = *threads, .unit = {.identity = {.removable = true}}});
  std::array<std::unique_ptr<ScsiInitiator>, 2> initiators{
      std::make_unique<ScsiInitiator>(device, "a"), std::make_unique<ScsiInitiator>(device, "b")};
  Decoder from(input);
  for (unsigned i = 0; i < most_steps && !from.at_end(); ++i) {
    const std::uint8_t flags = from.u8();
    const std::size_t length =
        std::min<std::size_t>(from.u16(), from.remaining() >= 16 ? from.remaining() - 16 : 0);
    const auto cdb = from.bytes(16);
    if (!from.ok()) break;
    const auto data = from.bytes(std::min(length, most_data));
    ScsiInitiator& initiator = *initiators[flags & second];
    manage(device, initiator, (flags & management) >> 5);
    ScsiInitiator::Command command{
        .data = Input(data.begin(), data.end()),
        .attribute = static_cast<TaskAttribute>((flags & attribute_mask) >> 1),
        .lun = (flags & absent) != 0 ? lun_of_number(1) : 0,
        .data_later = (flags & later) != 0};
    std::ranges::copy(cdb, command.cdb.begin());
    const unsigned before = initiator.answers();
    const ScsiAnswer answer = initiator.send(command);
    require(initiator.answers() == before + 1, "a command is answered once");
    require(!answer.dropped, "a command that nobody aborts is answered");
    require((answer.status == Status::check_condition) == !answer.sense.empty(),
            "sense data is there with CHECK CONDITION, and only then");
    require(answer.sense.empty() || answer.key() != 0 || answer.code() == 0, "sense data says why");
    require(answer.sense.size() <= largest_sense, "sense data is bounded");
  }
  require(device.unit().idle(), "nothing stays behind");
  const ReservationState& state = device.unit().reservations().state();
  require(state.type == ReservationType::none || !state.registrants.empty(),
          "who holds a reservation is registered");
  // As from the start: the unit still serves.
  device.device().reset_all(asc::power_on);
  initiators[1].reset();
  const ScsiAnswer inquiry = initiators[0]->send({0x12, 0, 0, 0, 96});
  require(inquiry.status == Status::good && inquiry.data.size() == 96, "INQUIRY is answered");
}

}  // namespace tidepool::test
