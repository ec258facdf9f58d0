#include "virtio/scsi_request.h"

#include <linux/virtio_scsi.h>

#include <algorithm>
#include <array>

#include "base/byte_order.h"
#include "scsi/big_endian.h"
#include "virtio/pieces.h"

namespace tidepool::virtio {

namespace {

constexpr std::size_t management_bytes = 24, notification_bytes = 16;
constexpr std::size_t notification_answer_bytes = 5;

std::span<const iovec> readable(const Chain& chain) {
  return std::span(chain.segments).first(chain.readable);
}
std::span<const iovec> writable(const Chain& chain) {
  return std::span(chain.segments).subspan(chain.readable, chain.writable);
}

// Section 5.6.6.1: 1, the target, a single-level LUN; or the well-known unit that reports
// what there is.
ScsiAddress address_at(const std::byte* lun) {
  constexpr std::uint16_t our_target = 0x0100, report_luns = 0xc101;
  const std::uint16_t head = scsi::load_be16(lun);
  if (head == report_luns) return {true, std::uint64_t{report_luns} << 48};
  const std::uint64_t rest = scsi::load_be<6>(lun + 2) << 16;
  return {head == our_target, rest};
}

scsi::TaskAttribute attribute_of(std::uint8_t value) {
  using enum scsi::TaskAttribute;
  switch (value) {
    case VIRTIO_SCSI_S_ORDERED:
      return ordered;
    case VIRTIO_SCSI_S_HEAD:
      return head_of_queue;
    case VIRTIO_SCSI_S_ACA:
      return aca;
    default:
      return simple;
  }
}

}  // namespace

std::optional<ScsiRequest> parse_scsi_request(const Chain& chain) {
  if (chain.readable_bytes < scsi_request_bytes || chain.writable_bytes < scsi_response_bytes) {
    return std::nullopt;
  }
  std::array<std::byte, scsi_request_bytes> header;
  copy_from(readable(chain), 0, header);
  ScsiRequest request;
  request.address = address_at(&header[offsetof(virtio_scsi_cmd_req, lun)]);
  request.id = load_le64(&header[offsetof(virtio_scsi_cmd_req, tag)]);
  request.attribute =
      attribute_of(std::to_integer<std::uint8_t>(header[offsetof(virtio_scsi_cmd_req, task_attr)]));
  std::copy_n(&header[offsetof(virtio_scsi_cmd_req, cdb)], request.cdb.size(), request.cdb.begin());
  request.data_out = chain.readable_bytes - scsi_request_bytes;
  request.data_in = chain.writable_bytes - scsi_response_bytes;
  return request;
}

void copy_scsi_data_out(const Chain& chain, std::span<std::byte> data) {
  copy_from(readable(chain), scsi_request_bytes, data);
}

std::uint32_t write_scsi_response(const Chain& chain, const ScsiResponse& response,
                                  std::span<const std::byte> data) {
  std::array<std::byte, scsi_response_bytes> bytes{};
  const std::size_t sense = std::min<std::size_t>(response.sense.size(), scsi_sense_bytes);
  store_le32(&bytes[offsetof(virtio_scsi_cmd_resp, sense_len)], static_cast<std::uint32_t>(sense));
  store_le32(&bytes[offsetof(virtio_scsi_cmd_resp, resid)], response.residual);
  bytes[offsetof(virtio_scsi_cmd_resp, status)] = std::byte{response.status};
  bytes[offsetof(virtio_scsi_cmd_resp, response)] = std::byte{response.response};
  std::copy_n(response.sense.begin(), sense, &bytes[offsetof(virtio_scsi_cmd_resp, sense)]);
  copy_to(writable(chain), 0, bytes);
  copy_to(writable(chain), scsi_response_bytes, data);
  return scsi_response_bytes + static_cast<std::uint32_t>(data.size());
}

std::optional<ScsiControl> parse_scsi_control(const Chain& chain) {
  std::array<std::byte, management_bytes> header{};
  const auto there = std::min<std::uint64_t>(chain.readable_bytes, header.size());
  if (there < sizeof(std::uint32_t) || chain.writable_bytes == 0) return std::nullopt;
  copy_from(readable(chain), 0, std::span(header).first(there));
  ScsiControl control;
  switch (load_le32(header.data())) {
    case VIRTIO_SCSI_T_TMF:
      if (there < management_bytes) return std::nullopt;
      control.kind = ScsiControlKind::task_management;
      control.function = load_le32(&header[offsetof(virtio_scsi_ctrl_tmf_req, subtype)]);
      control.address = address_at(&header[offsetof(virtio_scsi_ctrl_tmf_req, lun)]);
      control.id = load_le64(&header[offsetof(virtio_scsi_ctrl_tmf_req, tag)]);
      break;
    case VIRTIO_SCSI_T_AN_QUERY:
    case VIRTIO_SCSI_T_AN_SUBSCRIBE:
      if (there < notification_bytes || chain.writable_bytes < notification_answer_bytes) {
        return std::nullopt;
      }
      control.kind = ScsiControlKind::notification;
      control.address = address_at(&header[offsetof(virtio_scsi_ctrl_an_req, lun)]);
      break;
    default:
      break;
  }
  return control;
}

std::uint32_t write_scsi_control(const Chain& chain, ScsiControlKind kind, std::uint8_t response) {
  // A notification's answer begins with the events that will be told of: none.
  std::array<std::byte, notification_answer_bytes> bytes{};
  const std::size_t count = kind == ScsiControlKind::notification ? bytes.size() : 1;
  bytes[count - 1] = std::byte{response};
  copy_to(writable(chain), 0, std::span(bytes).first(count));
  return static_cast<std::uint32_t>(count);
}

}  // namespace tidepool::virtio
