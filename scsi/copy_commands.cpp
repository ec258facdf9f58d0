// EXTENDED COPY within one logical unit, and what has become of it.
//
// Limit: both ends of a segment are this unit; another is unreachable.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "scsi/big_endian.h"
#include "scsi/block_access.h"
#include "scsi/copy_parameters.h"
#include "scsi/handlers.h"

namespace tidepool::scsi {

namespace {

constexpr std::size_t piece_bytes = std::size_t{1} << 20;

Sense copy_aborted(std::uint16_t code) { return {.key = SenseKey::copy_aborted, .code = code}; }

std::uint32_t list_length(const Task& task) { return load_be32(&task.cdb[10]); }

// Parsed again at each segment: the list is small, and was checked before.
CopyRequest request_of(const Task& task) {
  return *parse_copy_request(task.data_out.span().first(list_length(task)));
}

void keep_result(LogicalUnit& unit, Task& task, const CopyRequest& request, bool failed) {
  if (!request.keeps_result) return;
  CopyResult result{.failed = failed};
  result.segments = static_cast<std::uint16_t>(task.index);
  for (std::size_t i = 0; i < task.index; ++i)
    result.bytes += request.segments[i].from.count * unit.block_size();
  unit.nexus_of(task).copies[request.list_id] = result;
}

void copy_failed(LogicalUnit& unit, Task& task, const CopyRequest& request, const Sense& sense) {
  keep_result(unit, task, request, true);
  unit.fail(task, sense);
}

void copy_piece(LogicalUnit& unit, Task& task);

// Where the present piece of the present segment goes. Overlapping copies go backwards where
// the destination is behind the source, so that nothing is overwritten before it is read.
struct Piece {
  std::uint64_t from = 0, to = 0, length = 0;  // bytes
};
Piece piece_of(const LogicalUnit& unit, const Task& task, const CopySegment& segment) {
  const BlockSpan span = bytes_of(unit, segment.from);
  const std::uint64_t to = segment.to * unit.block_size();
  const std::uint64_t length = std::min<std::uint64_t>(span.length - task.offset, piece_bytes);
  const std::uint64_t at = to > span.offset ? span.length - task.offset - length : task.offset;
  return {span.offset + at, to + at, length};
}

void piece_written(LogicalUnit& unit, Task& task, int error) {
  if (error != 0) {
    keep_result(unit, task, request_of(task), true);
    return (void)unit.failed(task, error);
  }
  task.offset += task.request.length;
  copy_piece(unit, task);
}

void piece_read(LogicalUnit& unit, Task& task, int error) {
  if (error != 0) {
    keep_result(unit, task, request_of(task), true);
    return (void)unit.failed(task, error);
  }
  const CopyRequest request = request_of(task);
  const Piece piece = piece_of(unit, task, request.segments[task.index]);
  unit.write(task, piece.to, task.scratch.span().first(piece.length), unit.must_be_stable(false),
             piece_written);
}

void copy_piece(LogicalUnit& unit, Task& task) {
  const CopyRequest request = request_of(task);
  while (task.index < request.segments.size()) {
    const CopySegment& segment = request.segments[task.index];
    if (task.offset < bytes_of(unit, segment.from).length) {
      const Piece piece = piece_of(unit, task, segment);
      return unit.read(task, piece.from, task.scratch.span().first(piece.length), piece_read);
    }
    ++task.index;
    task.offset = 0;
  }
  keep_result(unit, task, request, false);
  unit.finish(task);
}

bool is_this_unit(const LogicalUnit& unit, const std::vector<std::byte>& designator) {
  return std::ranges::equal(designator, naa_designator(unit.identity().uuid));
}

}  // namespace

void handle_extended_copy(LogicalUnit& unit, Task& task) {
  const std::uint32_t length = list_length(task);
  task.data_out_wanted = length;
  if (task.data_out_length < length)
    return unit.fail(task, illegal_request(asc::parameter_list_length_error));
  const auto request = parse_copy_request(task.data_out.span().first(length));
  if (!request) return unit.fail(task, request.error());
  BlockRange whole{unit.blocks(), 0};
  std::uint64_t end = 0;
  for (const CopySegment& segment : request->segments) {
    for (const std::uint16_t index : {segment.source, segment.destination})
      if (index >= request->targets.size() || !is_this_unit(unit, request->targets[index]))
        return copy_failed(unit, task, *request, copy_aborted(asc::unreachable_copy_target));
    for (const std::uint64_t first : {segment.from.first, segment.to}) {
      if (check_range({first, segment.from.count}, unit.blocks()))
        return copy_failed(unit, task, *request, copy_aborted(asc::none));
      whole.first = std::min(whole.first, first);
      end = std::max(end, first + segment.from.count);
    }
  }
  if (end == 0) return unit.finish(task);
  whole.count = end - whole.first;
  task.scratch = DataBuffer::allocate(piece_bytes);
  if (task.scratch.size() == 0) return (void)unit.failed(task, ENOMEM);
  unit.with_range(task, whole, true, [](LogicalUnit& u, Task& t, int) { copy_piece(u, t); });
}

void handle_copy_status(LogicalUnit& unit, Task& task) {
  auto& copies = unit.nexus_of(task).copies;
  const auto found = copies.find(task.byte(2));
  if (found == copies.end()) return unit.fail(task, invalid_cdb_field(2));
  const CopyResult result = found->second;
  copies.erase(found);  // told once
  std::byte data[12]{};
  store_be32(&data[0], sizeof data - 4);
  data[4] = std::byte{result.failed ? std::uint8_t{2} : std::uint8_t{1}};
  store_be16(&data[5], result.segments);
  constexpr std::uint8_t kibibytes = 1;
  data[7] = std::byte{kibibytes};
  store_be32(&data[8], result.bytes / 1024);
  unit.reply(task, data, load_be32(&task.cdb[10]));
}

void handle_copy_parameters(LogicalUnit& unit, Task& task) {
  std::byte data[46]{};
  store_be32(&data[0], sizeof data - 4);
  data[4] = std::byte{0x01};  // SNLID
  store_be16(&data[8], copy_target_descriptors);
  store_be16(&data[10], copy_segment_descriptors);
  store_be32(&data[12], copy_descriptor_bytes);
  store_be32(&data[16], std::uint64_t{0xffff} * unit.block_size());  // one segment
  store_be16(&data[34], 1);
  data[36] = std::byte{1};
  data[43] = std::byte{2};
  data[44] = std::byte{copy_block_to_block};
  data[45] = std::byte{copy_target_identification};
  unit.reply(task, data, load_be32(&task.cdb[10]));
}

}  // namespace tidepool::scsi
