// The mode pages: caching (08h) and control (0Ah), and their parameter lists.
//
// Pure. What can be changed: WCE (without it every write is stable when it is
// answered), SWP and D_SENSE; of a unit that other hosts serve, too, only D_SENSE. Nothing is
// saved: a reset brings the defaults back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <vector>

#include "scsi/sense.h"

namespace tidepool::scsi {

struct ModeParameters {
  bool write_cache = true;              // WCE
  bool software_write_protect = false;  // SWP
  bool descriptor_sense = false;        // D_SENSE

  bool operator==(const ModeParameters&) const = default;
};

// What stands in the header and the block descriptor.
struct ModeContext {
  std::uint64_t blocks = 0;
  std::uint32_t block_size = 512;  // bytes
  bool write_protected = false;    // by anyone
  bool shared = false;  // with other hosts: always stable, and no mode that concerns them
};

ModeParameters default_mode(const ModeContext& context);

struct ModeSenseRequest {
  bool ten = false;          // MODE SENSE(10)
  bool descriptor = true;    // with the block descriptor
  bool long_lba = false;     // LLBAA
  std::uint8_t control = 0;  // PC: 0 current, 1 changeable, 2 default, 3 saved
  std::uint8_t page = 0;
  std::uint8_t subpage = 0;
};

std::expected<std::vector<std::byte>, Sense> mode_sense(const ModeSenseRequest& request,
                                                        const ModeParameters& current,
                                                        const ModeContext& context);

// The parameters after MODE SELECT with this list.
std::expected<ModeParameters, Sense> mode_select(std::span<const std::byte> list, bool ten,
                                                 const ModeParameters& current,
                                                 const ModeContext& context);

}  // namespace tidepool::scsi
