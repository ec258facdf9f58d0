// What the handlers of block commands share: ranges and data of the right size.
#pragma once

#include <algorithm>
#include <optional>
#include <span>

#include "scsi/cdb.h"
#include "scsi/logical_unit.h"

namespace tidepool::scsi {

struct BlockSpan {
  std::uint64_t offset = 0;  // bytes
  std::uint64_t length = 0;  // bytes
};

inline BlockSpan bytes_of(const LogicalUnit& unit, const BlockRange& range) {
  return {range.first * unit.block_size(), range.count * unit.block_size()};
}

// True: the task has been ended, as its range is not of the unit or too long for one command.
inline bool refuse_range(LogicalUnit& unit, Task& task, const BlockRange& range) {
  if (const auto sense = check_range(range, unit.blocks())) return unit.fail(task, *sense), true;
  if (range.count > unit.limits().transfer)
    return unit.fail(task, illegal_request(asc::invalid_field_in_cdb)), true;
  return false;
}

// Of what a WRITE asks for, what the initiator sends: the rest is not transferred, and the
// transport's residual count says so (RFC 7143 11.4.5.2).
inline BlockRange sent_part(LogicalUnit& unit, Task& task, BlockRange range) {
  task.data_out_wanted = static_cast<std::uint32_t>(range.count * unit.block_size());
  range.count = std::min<std::uint64_t>(range.count, task.data_out_length / unit.block_size());
  return range;
}

enum class Surplus : std::uint8_t { ignored, refused };

// True: the task has been ended, as the data sent is not `blocks` blocks. Nothing is
// written of what is too short; more may be there where the command leaves no doubt.
inline bool refuse_data(LogicalUnit& unit, Task& task, std::uint64_t blocks, Surplus surplus) {
  const std::uint64_t wanted = blocks * unit.block_size();
  task.data_out_wanted = static_cast<std::uint32_t>(wanted);
  if (task.data_out_length == wanted ||
      (task.data_out_length > wanted && surplus == Surplus::ignored))
    return false;
  unit.fail(task, illegal_request(asc::invalid_field_in_command_information_unit));
  return true;
}

inline std::optional<std::size_t> first_difference(std::span<const std::byte> a,
                                                   std::span<const std::byte> b) {
  const auto [in_a, in_b] = std::ranges::mismatch(a, b);
  if (in_a == a.end()) return std::nullopt;
  return static_cast<std::size_t>(in_a - a.begin());
}

// offset: in the data sent.
inline Sense miscompare_at(std::uint64_t offset) {
  return {
      .key = SenseKey::miscompare, .code = asc::miscompare_during_verify, .information = offset};
}

}  // namespace tidepool::scsi
