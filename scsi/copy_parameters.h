// EXTENDED COPY(LID1)'s parameter list: pure decoding.
//
// Limits: identification descriptors (E4h) and block-to-block segments (02h) only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <span>
#include <vector>

#include "scsi/cdb.h"
#include "scsi/sense.h"

namespace tidepool::scsi {

struct CopySegment {
  std::uint16_t source = 0;       // index of a target descriptor
  std::uint16_t destination = 0;  // index of a target descriptor
  BlockRange from;
  std::uint64_t to = 0;  // logical block
};

struct CopyRequest {
  std::uint8_t list_id = 0;
  bool keeps_result = true;                     // for RECEIVE COPY STATUS
  std::vector<std::vector<std::byte>> targets;  // the designators
  std::vector<CopySegment> segments;
};

// An empty list is a request for nothing.
std::expected<CopyRequest, Sense> parse_copy_request(std::span<const std::byte> list);

}  // namespace tidepool::scsi
