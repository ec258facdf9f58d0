// Digests on a real connection: what was damaged on its way does not reach the disk, and ends
// the session. The twin is the same damage where no digest was agreed on: it is written.
#include "scsi/iscsi/connection.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "tests/lib/iscsi_peer.h"

namespace tidepool::scsi::iscsi {
namespace {

using test::command_header;
using test::ConnectionHost;
using test::PduStream;
using test::ScsiDevice;
using test::SimulatedStore;
using Bytes = std::vector<std::byte>;

constexpr std::uint64_t disk_bytes = 1 << 20;
constexpr std::byte written{0x5a};

// A login, then a WRITE of block 1; `damage` may change what is sent of the WRITE.
struct Outcome {
  bool session_ended = false;  // before its initiator went
  std::byte on_disk{};         // the first byte of block 1
  std::byte last_on_disk{};    // the last byte of block 1
};

Outcome send_write(bool header_digest, bool data_digest, std::ptrdiff_t damaged) {
  const auto store = SimulatedStore::open(disk_bytes);
  ScsiDevice device(disk_bytes, {.store = store});
  ConnectionHost host(device.device());
  int pair[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  UniqueFd peer(pair[0]);
  Connection connection(device.loop(), host, UniqueFd(pair[1]), "test");
  connection.start();
  PduStream stream(header_digest, data_digest);
  // Takes the unit attention.
  stream.add(command_header(1, 1, 0, 0, {0x00}));
  const auto begin = static_cast<std::ptrdiff_t>(stream.bytes().size());
  stream.add(command_header(2, 2, 0x20, 512, {0x2a, 0, 0, 0, 0, 1, 0, 0, 1}), Bytes(512, written));
  if (damaged >= 0) stream.bytes()[static_cast<std::size_t>(begin + damaged)] ^= std::byte{0x01};
  EXPECT_EQ(::send(peer.get(), stream.bytes().data(), stream.bytes().size(), 0),
            static_cast<ssize_t>(stream.bytes().size()));
  // An answer to the WRITE, or the end.
  Bytes answers(65536);
  std::size_t got = 0;
  const std::size_t per_answer = header_bytes + (header_digest ? digest_bytes : 0);
  const auto answered_write = [&] {
    for (std::size_t at = 0; at + header_bytes <= got;) {
      Header header;
      std::copy_n(answers.begin() + static_cast<std::ptrdiff_t>(at), header_bytes,
                  header.bytes.begin());
      if (header.opcode() == Opcode::scsi_response && header.task_tag() == 2) return true;
      const bool login = header.opcode() == Opcode::login_response;
      at += login ? header_bytes : per_answer;
      at += padded(header.data_length()) +
            (data_digest && !login && header.data_length() > 0 ? digest_bytes : 0);
    }
    return false;
  };
  while (!host.has_ended && !answered_write()) {
    EXPECT_TRUE(device.loop().poll(true));
    const ssize_t more = ::recv(peer.get(), &answers[got], answers.size() - got, MSG_DONTWAIT);
    if (more > 0) got += static_cast<std::size_t>(more);
  }
  Outcome outcome;
  outcome.session_ended = host.has_ended;
  peer.reset();
  while (!host.has_ended) EXPECT_TRUE(device.loop().poll(true));
  std::byte block[512];
  store->newest().read(512, block);
  outcome.on_disk = block[0];
  outcome.last_on_disk = block[511];
  return outcome;
}

constexpr std::ptrdiff_t none = -1;

TEST(Digests, WholeDataIsWritten) {
  for (const bool header : {false, true})
    for (const bool data : {false, true}) {
      const Outcome outcome = send_write(header, data, none);
      EXPECT_FALSE(outcome.session_ended);
      EXPECT_EQ(outcome.on_disk, written);
      EXPECT_EQ(outcome.last_on_disk, written);
    }
}

TEST(Digests, DamagedDataIsNotWritten) {
  for (const bool header : {false, true}) {
    const std::ptrdiff_t data = header_bytes + (header ? digest_bytes : 0);
    // A byte of the data, its last one, one of the digest.
    for (const std::ptrdiff_t at : {data, data + 511, data + 512}) {
      const Outcome outcome = send_write(header, true, at);
      EXPECT_TRUE(outcome.session_ended) << at;
      EXPECT_EQ(outcome.on_disk, std::byte{0}) << at;
    }
  }
}

TEST(Digests, WithoutADigestDamagedDataIsWritten) {
  const Outcome outcome = send_write(false, false, header_bytes);
  EXPECT_FALSE(outcome.session_ended);
  EXPECT_EQ(outcome.on_disk, written ^ std::byte{0x01});
}

TEST(Digests, ADamagedHeaderEndsTheSession) {
  // Of the CDB: the block's number; of the digest.
  for (const std::ptrdiff_t at : {std::ptrdiff_t{37}, std::ptrdiff_t{header_bytes + 1}}) {
    const Outcome outcome = send_write(true, false, at);
    EXPECT_TRUE(outcome.session_ended) << at;
    EXPECT_EQ(outcome.on_disk, std::byte{0}) << at;
  }
}

TEST(Digests, WithoutADigestADamagedHeaderIsObeyed) {
  // It goes to block 0 instead of 1.
  const Outcome outcome = send_write(false, false, 37);
  EXPECT_FALSE(outcome.session_ended);
  EXPECT_EQ(outcome.on_disk, std::byte{0});
}

}  // namespace
}  // namespace tidepool::scsi::iscsi
