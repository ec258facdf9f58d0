// The other end of one iSCSI connection, for tests and fuzz targets: what keeps the connection,
// and the bytes that an initiator would send it.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "scsi/iscsi/connection.h"
#include "scsi/iscsi/crc32c.h"
#include "tests/lib/scsi_initiator.h"

namespace tidepool::test {

inline const std::string peer_target = "iqn.2026-11.test:disk";

// A target of one connection.
class ConnectionHost final : public scsi::iscsi::ConnectionOwner, public scsi::iscsi::TargetSide {
 public:
  explicit ConnectionHost(scsi::Device& device) : device_(device) {
    policy_.target_name = peer_target;
  }
  const scsi::iscsi::LoginPolicy& policy() override { return policy_; }
  scsi::iscsi::TargetSide& target_side() override { return *this; }
  std::uint16_t new_session_handle() override { return 1; }
  void logged_in(scsi::iscsi::Connection&, const scsi::iscsi::SessionIdentity&) override {}
  void ended(scsi::iscsi::Connection&) override { has_ended = true; }
  scsi::Device& device() override { return device_; }
  scsi::iscsi::KeyValues addresses(const std::string& local) override {
    return {{"TargetName", peer_target}, {"TargetAddress", local + ",1"}};
  }
  const std::string& name() const override { return peer_target; }
  void close_all_sessions() override {}

  bool has_ended = false;

 private:
  scsi::Device& device_;
  scsi::iscsi::LoginPolicy policy_;
};

inline scsi::iscsi::Header command_header(std::uint32_t tag, std::uint32_t number, unsigned flags,
                                          std::uint32_t length,
                                          std::initializer_list<unsigned> cdb) {
  scsi::iscsi::Header header = make_header(scsi::iscsi::Opcode::scsi_command, tag);
  header.set_u8(1, static_cast<std::uint8_t>(0x80 | flags));
  header.set_u32(20, length);
  header.set_u32(24, number);
  std::ranges::copy(cdb_of(cdb), &header.bytes[32]);
  return header;
}

// Begins with a login that is through after one PDU.
class PduStream {
 public:
  PduStream(bool header_digest, bool data_digest) {
    scsi::iscsi::Header login = make_header(scsi::iscsi::Opcode::login, 1);
    login.set_u8(0, 0x43);
    login.set_u8(1, 0x87);
    login.set_u32(24, 1);
    const auto offer = [](bool digest) { return digest ? "CRC32C" : "None"; };
    add(login, scsi::iscsi::format_text({{"InitiatorName", "iqn.2026-11.test:a"},
                                         {"TargetName", peer_target},
                                         {"SessionType", "Normal"},
                                         {"HeaderDigest", offer(header_digest)},
                                         {"DataDigest", offer(data_digest)}}));
    header_digest_ = header_digest;
    data_digest_ = data_digest;
  }
  void add(scsi::iscsi::Header header, const std::vector<std::byte>& data = {}) {
    header.set_data_length(data.size());
    append(header.bytes);
    if (header_digest_) append_digest(header.bytes);
    std::vector<std::byte> whole = data;
    whole.resize(scsi::iscsi::padded(data.size()));
    append(whole);
    if (data_digest_ && !data.empty()) append_digest(whole);
  }
  std::vector<std::byte>& bytes() { return bytes_; }

 private:
  void append(std::span<const std::byte> more) {
    bytes_.insert(bytes_.end(), more.begin(), more.end());
  }
  void append_digest(std::span<const std::byte> of) {
    const std::uint32_t crc = scsi::iscsi::crc32c(0, of);
    for (unsigned i = 0; i < 4; ++i)
      bytes_.push_back(static_cast<std::byte>(crc >> (8 * i) & 0xff));
  }
  bool header_digest_ = false, data_digest_ = false;
  std::vector<std::byte> bytes_;
};

}  // namespace tidepool::test
