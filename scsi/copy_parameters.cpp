#include "scsi/copy_parameters.h"

#include "scsi/big_endian.h"
#include "scsi/inquiry.h"

namespace tidepool::scsi {

namespace {

constexpr std::size_t header = 16, target_bytes = 32, segment_bytes = 28;

using Bytes = std::span<const std::byte>;

std::unexpected<Sense> refuse(std::uint16_t code) { return std::unexpected(illegal_request(code)); }

std::expected<CopySegment, Sense> parse_segment(Bytes entry) {
  if (load_be8(&entry[0]) != copy_block_to_block)
    return refuse(asc::unsupported_segment_descriptor);
  if (load_be16(&entry[2]) != segment_bytes - 4)
    return refuse(asc::invalid_field_in_parameter_list);
  return CopySegment{.source = load_be16(&entry[4]),
                     .destination = load_be16(&entry[6]),
                     .from = {load_be64(&entry[12]), load_be16(&entry[10])},
                     .to = load_be64(&entry[20])};
}

}  // namespace

std::expected<CopyRequest, Sense> parse_copy_request(Bytes list) {
  CopyRequest request;
  if (list.empty()) return request;
  if (list.size() < header) return refuse(asc::parameter_list_length_error);
  request.list_id = load_be8(&list[0]);
  const std::uint8_t usage = load_be8(&list[1]) >> 3 & 0x03;
  request.keeps_result = usage != 0x03 && usage != 0x02;
  const std::size_t targets = load_be16(&list[2]), segments = load_be32(&list[8]);
  const std::size_t inline_data = load_be32(&list[12]);
  if (targets + segments > copy_descriptor_bytes) return refuse(asc::parameter_list_length_error);
  if (header + targets + segments > list.size()) return refuse(asc::parameter_list_length_error);
  if (inline_data != 0) return std::unexpected(invalid_parameter(12));
  if (targets % target_bytes != 0) return std::unexpected(invalid_parameter(2));
  if (targets / target_bytes > copy_target_descriptors)
    return refuse(asc::too_many_target_descriptors);

  Bytes rest = list.subspan(header, targets);
  for (; !rest.empty(); rest = rest.subspan(target_bytes)) {
    if (load_be8(&rest[0]) != copy_target_identification)
      return refuse(asc::unsupported_target_descriptor);
    const std::size_t length = load_be8(&rest[7]);
    if (length > 20) return std::unexpected(invalid_parameter(header));
    const Bytes designator = rest.subspan(8, length);
    request.targets.emplace_back(designator.begin(), designator.end());
  }
  rest = list.subspan(header + targets, segments);
  while (!rest.empty()) {
    if (request.segments.size() == copy_segment_descriptors)
      return refuse(asc::too_many_segment_descriptors);
    // One of another type may have another length.
    if (load_be8(&rest[0]) != copy_block_to_block)
      return refuse(asc::unsupported_segment_descriptor);
    if (rest.size() < segment_bytes) return refuse(asc::parameter_list_length_error);
    auto segment = parse_segment(rest.first(segment_bytes));
    if (!segment) return std::unexpected(segment.error());
    request.segments.push_back(*segment);
    rest = rest.subspan(segment_bytes);
  }
  return request;
}

}  // namespace tidepool::scsi
