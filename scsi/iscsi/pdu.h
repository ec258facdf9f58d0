// iSCSI protocol data units (RFC 7143, 11): the basic header segment and its fields.
//
// Pure. A Header is 48 bytes as on the wire; what comes from an initiator is read field by
// field and checked by who uses it. Fields of one PDU kind stand in a namespace of their own.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "scsi/big_endian.h"
#include "scsi/data_buffer.h"

namespace tidepool::scsi::iscsi {

enum class Opcode : std::uint8_t {
  nop_out = 0x00,
  scsi_command = 0x01,
  task_management = 0x02,
  login = 0x03,
  text = 0x04,
  data_out = 0x05,
  logout = 0x06,
  nop_in = 0x20,
  scsi_response = 0x21,
  task_management_response = 0x22,
  login_response = 0x23,
  text_response = 0x24,
  data_in = 0x25,
  logout_response = 0x26,
  r2t = 0x31,
  reject = 0x3f,
};

inline constexpr std::size_t header_bytes = 48;
inline constexpr std::size_t digest_bytes = 4;
inline constexpr std::uint32_t no_tag = 0xffffffff;

struct Header {
  std::array<std::byte, header_bytes> bytes{};

  std::uint8_t u8(unsigned at) const { return load_be8(&bytes[at]); }
  std::uint16_t u16(unsigned at) const { return load_be16(&bytes[at]); }
  std::uint32_t u32(unsigned at) const { return load_be32(&bytes[at]); }
  std::uint64_t u64(unsigned at) const { return load_be64(&bytes[at]); }
  void set_u8(unsigned at, std::uint8_t value) { bytes[at] = std::byte{value}; }
  void set_u16(unsigned at, std::uint16_t value) { store_be16(&bytes[at], value); }
  void set_u32(unsigned at, std::uint32_t value) { store_be32(&bytes[at], value); }
  void set_u64(unsigned at, std::uint64_t value) { store_be64(&bytes[at], value); }

  // Common to all.
  Opcode opcode() const { return static_cast<Opcode>(u8(0) & 0x3f); }
  bool immediate() const { return (u8(0) & 0x40) != 0; }
  bool final() const { return (u8(1) & 0x80) != 0; }
  std::size_t extra_header_length() const { return std::size_t{u8(4)} * 4; }  // AHS, bytes
  std::uint32_t data_length() const { return load_be24(&bytes[5]); }
  void set_data_length(std::size_t length) { store_be24(&bytes[5], length); }
  std::uint64_t lun() const { return u64(8); }
  std::uint32_t task_tag() const { return u32(16); }

  // Of initiators' PDUs but Data-Out.
  std::uint32_t command_number() const { return u32(24); }  // CmdSN
  // Of targets'.
  void set_status_number(std::uint32_t value) { set_u32(24, value); }
  void set_expected_command(std::uint32_t value) { set_u32(28, value); }
  void set_last_command(std::uint32_t value) { set_u32(32, value); }
};

inline Header make_header(Opcode opcode, std::uint32_t task_tag, bool final = true) {
  Header header;
  header.set_u8(0, static_cast<std::uint8_t>(opcode));
  if (final) header.set_u8(1, 0x80);
  header.set_u32(16, task_tag);
  return header;
}

constexpr std::size_t padded(std::size_t length) { return (length + 3) / 4 * 4; }

// Serial number arithmetic (RFC 1982): whether a comes before b.
constexpr bool serial_before(std::uint32_t a, std::uint32_t b) {
  return static_cast<std::int32_t>(a - b) < 0;
}

// One to be sent. Its data is either its own or lies in `memory`.
struct OutPdu {
  Header header;
  std::vector<std::byte> own;
  DataBuffer memory;
  std::span<const std::byte> in_memory;

  std::span<const std::byte> data() const { return own.empty() ? in_memory : std::span(own); }
};

namespace task_management {
enum class Function : std::uint8_t {
  abort_task = 1,
  abort_task_set = 2,
  clear_aca = 3,
  clear_task_set = 4,
  logical_unit_reset = 5,
  target_warm_reset = 6,
  target_cold_reset = 7,
  task_reassign = 8,
};
enum class Response : std::uint8_t {
  complete = 0,
  no_such_task = 1,
  no_such_lun = 2,
  reassign_not_supported = 4,
  not_supported = 5,
  rejected = 255,
};
}  // namespace task_management

enum class RejectReason : std::uint8_t {
  data_digest_error = 0x02,
  protocol_error = 0x04,
  command_not_supported = 0x05,
  immediate_command_reject = 0x06,
};

}  // namespace tidepool::scsi::iscsi
