// Bytes from the network: a real connection over a socket pair, from the first PDU on, with
// whatever framing, lengths, digests and order.
//
// An input is how many bytes are sent at a time, then what is sent.
#include <sys/socket.h>

#include <algorithm>

#include "base/log.h"
#include "tests/fuzz/target.h"
#include "tests/lib/iscsi_peer.h"

namespace tidepool::test {

using namespace scsi::iscsi;

namespace {

constexpr std::size_t most_input = 64 * 1024;

Input session(bool digests) {
  PduStream stream(digests, digests);
  stream.add(command_header(1, 1, 0x40, 0, {0x00}));
  stream.add(command_header(2, 2, 0x40, 96, {0x12, 0, 0, 0, 96}));
  stream.add(command_header(3, 3, 0x20, 512, {0x2a, 0, 0, 0, 0, 1, 0, 0, 1}),
             Input(512, std::byte{3}));
  stream.add(command_header(4, 4, 0x20, 1024, {0x2a, 0, 0, 0, 0, 4, 0, 0, 2}));
  Header data = make_header(Opcode::data_out, 4);
  data.set_u32(20, 1);
  stream.add(data, Input(1024, std::byte{4}));
  stream.add(command_header(5, 5, 0x40, 4096, {0x28, 0, 0, 0, 0, 0, 0, 0, 8}));
  Header management = make_header(Opcode::task_management, 6);
  management.set_u8(0, 0x42);
  management.set_u8(1, 0x85);
  management.set_u32(24, 6);
  stream.add(management);
  Header text = make_header(Opcode::text, 7);
  text.set_u32(20, no_tag);
  text.set_u32(24, 6);
  stream.add(text, format_text({{"SendTargets", ""}}));
  Header ping = make_header(Opcode::nop_out, 8);
  ping.set_u32(20, no_tag);
  ping.set_u32(24, 7);
  stream.add(ping, Input(9, std::byte{8}));
  Header logout = make_header(Opcode::logout, 9);
  logout.set_u32(24, 8);
  stream.add(logout);
  Input input(1 + stream.bytes().size());
  std::ranges::copy(stream.bytes(), input.begin() + 1);
  return input;
}

// True while the connection may still take something.
bool turn(ConnectionHost& owner, EventLoop& loop, int peer) {
  std::byte sink[65536];
  while (::recv(peer, sink, sizeof sink, MSG_DONTWAIT) > 0) {
  }
  if (owner.has_ended) return false;
  return loop.poll(true).has_value() && !owner.has_ended;
}

}  // namespace

std::vector<Input> seeds() { return {session(false), session(true)}; }

void run_one(std::span<const std::byte> input) {
  if (input.empty() || input.size() > most_input) return;
  const std::size_t at_once =
      input[0] == std::byte{0} ? most_input : std::to_integer<std::size_t>(input[0]);
  std::span<const std::byte> rest = input.subspan(1);
  int pair[2];
  require(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0, "a socket pair");
  UniqueFd peer(pair[0]);
  log().set_level(spdlog::level::off);
  static ScsiDevice* const device = new ScsiDevice(64 * 1024);
  EventLoop& loop = device->loop();
  ConnectionHost owner(device->device());
  {
    Connection connection(loop, owner, UniqueFd(pair[1]), "fuzzer");
    connection.start();
    while (!rest.empty() && !owner.has_ended) {
      const std::size_t piece = std::min(rest.size(), at_once);
      const ssize_t sent = ::send(peer.get(), rest.data(), piece, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent > 0) rest = rest.subspan(static_cast<std::size_t>(sent));
      if (!turn(owner, loop, peer.get())) break;
    }
    ::shutdown(peer.get(), SHUT_WR);
    while (turn(owner, loop, peer.get())) {
    }
    require(owner.has_ended, "a connection ends with its peer");
  }
  require(device->unit().idle(), "a connection that ended leaves no task");
  device->device().reset_all(scsi::asc::power_on);
}

}  // namespace tidepool::test
