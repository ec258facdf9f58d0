// INQUIRY data and vital product data pages (SPC-4 7.8, SBC-3 6.6): pure encoding.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/uuid.h"

namespace tidepool::scsi {

// What a logical unit is, to those who ask. Constant.
struct Identity {
  std::string vendor = "TIDEPOOL";   // at most 8 characters
  std::string product = "NAS-DISK";  // at most 16
  std::string revision = "0001";     // at most 4
  std::string serial;
  Uuid uuid{};              // the logical unit's: of it are serial and designators made
  std::string target_name;  // of the SCSI target device, as its transport names it; may be empty
  std::uint16_t relative_port = 1;
  bool removable = false;
};

struct Limits {
  std::uint32_t block_size = 512;        // bytes
  std::uint8_t physical_exponent = 0;    // logical blocks per physical block, as a power of two
  std::uint32_t transfer = 0;            // blocks: of one command
  std::uint32_t optimal_transfer = 0;    // blocks
  std::uint8_t compare_and_write = 255;  // blocks
  std::uint32_t write_same = 0;          // blocks
  std::uint32_t unmap_descriptors = 256;
  std::uint32_t unmap_granularity = 1;  // blocks
  bool thin = false;                    // UNMAP is offered
};

// EXTENDED COPY's, in VPD page 8Fh and in the operating parameters.
inline constexpr std::uint16_t copy_target_descriptors = 8;
inline constexpr std::uint16_t copy_segment_descriptors = 16;
inline constexpr std::uint32_t copy_descriptor_bytes = 1024;
inline constexpr std::uint8_t copy_target_identification = 0xe4;
inline constexpr std::uint8_t copy_block_to_block = 0x02;

std::vector<std::byte> standard_inquiry(const Identity& identity);
// Nothing for a page that is not supported.
std::optional<std::vector<std::byte>> vpd_page(std::uint8_t page, const Identity& identity,
                                               const Limits& limits);
// What a logical unit that does not exist answers.
std::vector<std::byte> absent_inquiry();

// The NAA designator: 16 bytes.
std::array<std::byte, 16> naa_designator(const Uuid& uuid);

}  // namespace tidepool::scsi
