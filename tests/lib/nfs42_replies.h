// What a server of NFS 4.2 answers to the calls of nfs42_codec, as bytes. The other side of that
// codec, for tests.
#pragma once

#include <cstdint>
#include <vector>

#include "blockdev/stores/nfs42_codec.h"

namespace tidepool::test {

class Nfs42Reply {
 public:
  static constexpr std::uint64_t client = 0x1122334455667788;
  static blockdev::nfs42::SessionId session() {
    blockdev::nfs42::SessionId id{};
    id[15] = std::byte{7};
    return id;
  }

  Nfs42Reply(std::uint32_t status, std::uint32_t results) { u32(status).u32(0).u32(results); }
  Nfs42Reply& u32(std::uint32_t value) {
    for (int shift = 24; shift >= 0; shift -= 8)
      bytes.push_back(static_cast<std::byte>(value >> shift));
    return *this;
  }
  Nfs42Reply& u64(std::uint64_t value) {
    return u32(static_cast<std::uint32_t>(value >> 32)).u32(static_cast<std::uint32_t>(value));
  }
  Nfs42Reply& word(const char (&text)[5]) {  // an opaque of four bytes
    u32(4);
    for (int i = 0; i < 4; ++i) bytes.push_back(static_cast<std::byte>(text[i]));
    return *this;
  }
  Nfs42Reply& session_id() {
    const auto id = session();
    bytes.insert(bytes.end(), id.begin(), id.end());
    return *this;
  }
  Nfs42Reply& channel() { return u32(0).u32(4096).u32(4096).u32(0).u32(8).u32(1).u32(0); }

  static std::vector<std::byte> refused(std::uint32_t status, std::uint32_t operation) {
    return Nfs42Reply(status, 1).u32(operation).u32(status).bytes;
  }
  static std::vector<std::byte> refused(std::uint32_t status) {
    return Nfs42Reply(status, 0).bytes;
  }
  static std::vector<std::byte> exchanged_id() {
    return Nfs42Reply(0, 1)
        .u32(42)
        .u32(0)
        .u64(client)
        .u32(5)
        .u32(0)
        .u32(0)
        .u64(1)
        .word("host")
        .word("here")
        .u32(1)
        .word("test")
        .word("name")
        .u64(0)
        .u32(0)
        .bytes;
  }
  static std::vector<std::byte> created_session() {
    return Nfs42Reply(0, 1).u32(43).u32(0).session_id().u32(5).u32(0).channel().channel().bytes;
  }
  // `status` of DEALLOCATE itself.
  static std::vector<std::byte> deallocated(std::uint32_t sequence, std::uint32_t status = 0) {
    return Nfs42Reply(status, 3)
        .u32(53)
        .u32(0)
        .session_id()
        .u32(sequence)
        .u32(0)
        .u32(0)
        .u32(0)
        .u32(0)
        .u32(22)
        .u32(0)
        .u32(62)
        .u32(status)
        .bytes;
  }

  std::vector<std::byte> bytes;
};

}  // namespace tidepool::test
