// What the two ends of a session agree on (RFC 7143, 13): pure.
//
// A table of keys with their rules; each offer gets its answer. Keys that nobody knows
// are NotUnderstood, values that make no sense Reject.
#pragma once

#include <cstdint>
#include <string>

#include "scsi/iscsi/text.h"

namespace tidepool::scsi::iscsi {

// What this target takes at most.
inline constexpr std::uint32_t our_segment_length = 256 * 1024;  // bytes: MaxRecvDataSegmentLength
inline constexpr std::uint32_t our_burst_length = 1024 * 1024;   // bytes: MaxBurstLength
inline constexpr std::uint32_t our_first_burst_length = 64 * 1024;  // bytes

struct SessionParameters {
  bool header_digest = false;
  bool data_digest = false;
  bool immediate_data = true;
  std::uint32_t initiator_segment_length = 8192;  // bytes: what one PDU to it may hold
  std::uint32_t burst_length = 262144;            // bytes
  std::uint32_t first_burst_length = 65536;       // bytes
};

// Answers one operational key, into `answers`. False: the session cannot be had so.
bool negotiate(const KeyValue& offer, SessionParameters& parameters, KeyValues& answers);

}  // namespace tidepool::scsi::iscsi
