// What a driver asks of a SCSI host adapter, taken out of one chain, and what it is
// answered (Virtual I/O Device 1.2, sections 5.6.6.1 and 5.6.6.2). Pure: no I/O, no state.
//
// Headers are copied out of guest memory before they are looked at. Data stays where it
// is: to the device behind the request's header, to the driver behind the response.
//
// Limits: CDBs of 32 and sense data of 96 bytes of room, as is usual; no protection
// information, no request with data in both directions.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "scsi/cdb.h"
#include "scsi/task.h"
#include "virtio/split_queue.h"

namespace tidepool::virtio {

inline constexpr std::uint32_t scsi_request_bytes = 51;
inline constexpr std::uint32_t scsi_sense_bytes = 96;
inline constexpr std::uint32_t scsi_response_bytes = 12 + scsi_sense_bytes;
inline constexpr std::uint32_t scsi_cdb_bytes = 32;

struct ScsiAddress {
  bool ours = false;      // the one target that there is
  std::uint64_t lun = 0;  // as a scsi::Device takes it
  bool operator==(const ScsiAddress&) const = default;
};

struct ScsiRequest {
  ScsiAddress address;
  std::uint64_t id = 0;  // the driver's
  scsi::TaskAttribute attribute = scsi::TaskAttribute::simple;
  scsi::Cdb cdb{};
  std::uint64_t data_out = 0, data_in = 0;  // bytes that the chain has, has room for
};

// nullopt: there is no whole header, or no room for a response.
std::optional<ScsiRequest> parse_scsi_request(const Chain& chain);
void copy_scsi_data_out(const Chain& chain, std::span<std::byte> data);

struct ScsiResponse {
  std::uint8_t response = 0;   // VIRTIO_SCSI_S_*
  std::uint8_t status = 0;     // with VIRTIO_SCSI_S_OK
  std::uint32_t residual = 0;  // bytes of data that were not moved
  std::span<const std::byte> sense;
};
// Of a chain that was parsed. data: no more than it has room for. How much was written.
std::uint32_t write_scsi_response(const Chain& chain, const ScsiResponse& response,
                                  std::span<const std::byte> data);

// Of the control queue.
enum class ScsiControlKind : std::uint8_t { task_management, notification, unknown };
struct ScsiControl {
  ScsiControlKind kind = ScsiControlKind::unknown;
  std::uint32_t function = 0;  // VIRTIO_SCSI_T_TMF_*
  ScsiAddress address;
  std::uint64_t id = 0;  // of the request that is meant
};
// nullopt: not even its kind, or no room for an answer.
std::optional<ScsiControl> parse_scsi_control(const Chain& chain);
// response: VIRTIO_SCSI_S_*. How much was written.
std::uint32_t write_scsi_control(const Chain& chain, ScsiControlKind kind, std::uint8_t response);

}  // namespace tidepool::virtio
