// The calls of NFS version 4.2 that give space back, as bytes: COMPOUND of minor version 2
// with EXCHANGE_ID, CREATE_SESSION, or DEALLOCATE behind SEQUENCE and PUTFH (RFC 8881, RFC 7862
// section 15.4). libnfs 4.0.0 knows none of them.
//
// Bytes are the arguments and results of the procedure, behind the RPC header. Results come
// from outside: nothing of them is believed that does not fit, to the last byte. Pure: no I/O.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace tidepool::blockdev::nfs42 {

using SessionId = std::array<std::byte, 16>;

// What a client makes known of itself. The same owner with another verifier is a new start of it.
std::vector<std::byte> exchange_id(std::string_view owner, std::uint64_t verifier);
struct Client {
  std::uint64_t id = 0;
  std::uint32_t sequence = 0;  // of its next CREATE_SESSION
};

// A session with one slot, and no way back to the client.
std::vector<std::byte> create_session(const Client& client);

// One use of the session's slot: `sequence` counts up from 1. By the anonymous state ID: without
// open state. Offset and length in bytes.
struct Deallocation {
  SessionId session{};
  std::uint32_t sequence = 0;
  std::span<const char> handle;
  std::uint64_t offset = 0, length = 0;
};
std::vector<std::byte> deallocate(const Deallocation& what);

// What became of a call. `status` is an nfsstat4; with one that is not 0 the rest says nothing,
// but slot_used.
struct Answer {
  std::uint32_t status = 0;
  bool slot_used = false;  // SEQUENCE itself was taken: the next one counts further
  Client client;           // of exchange_id
  SessionId session{};     // of create_session
};
// Nothing: it is no answer to that call.
std::optional<Answer> exchanged_id(std::span<const std::byte> reply);
std::optional<Answer> created_session(std::span<const std::byte> reply);
std::optional<Answer> deallocated(std::span<const std::byte> reply, const Deallocation& asked);

}  // namespace tidepool::blockdev::nfs42
