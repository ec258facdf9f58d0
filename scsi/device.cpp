#include "scsi/device.h"

#include <algorithm>
#include <cstring>

#include "scsi/big_endian.h"
#include "scsi/lun_list.h"

namespace tidepool::scsi {

std::optional<std::uint16_t> lun_number(std::uint64_t lun) {
  const auto first = static_cast<std::uint16_t>(lun >> 48);
  if ((lun & 0xffffffffffff) != 0) return std::nullopt;
  switch (first >> 14) {
    case 0:  // peripheral device addressing, bus 0
      return first < 256 ? std::optional(first) : std::nullopt;
    case 1:  // flat space addressing
      return static_cast<std::uint16_t>(first & 0x3fff);
    default:
      return std::nullopt;
  }
}

std::uint64_t lun_of_number(std::uint16_t number) { return std::uint64_t{number} << 48; }

NexusId Device::connect(const PortId& port) {
  ++last_nexus_;
  for (auto& [number, unit] : units_) unit->nexus_added(last_nexus_, port);
  return last_nexus_;
}

void Device::disconnect(NexusId nexus) {
  for (auto& [number, unit] : units_) unit->nexus_lost(nexus);
}

LogicalUnit* Device::find(std::uint64_t lun) const {
  const auto number = lun_number(lun);
  if (!number) return nullptr;
  const auto found = units_.find(*number);
  return found == units_.end() ? nullptr : found->second.get();
}

void Device::submit(std::uint64_t lun, std::unique_ptr<Task> task) {
  LogicalUnit* const unit = find(lun);
  if (unit == nullptr) return answer_for_absent(std::move(task));
  unit->submit(std::move(task));
}

void Device::answer_for_absent(std::unique_ptr<Task> task) const {
  const Sense sense = illegal_request(asc::logical_unit_not_supported);
  std::vector<std::byte> data;
  std::uint32_t allocation = 0;
  switch (task->byte(0)) {
    case 0x03:  // REQUEST SENSE
      data = encode_sense(sense, (task->byte(1) & 0x01) != 0);
      allocation = task->byte(4);
      break;
    case 0x12:  // INQUIRY
      data = absent_inquiry();
      allocation = load_be16(&task->cdb[3]);
      break;
    case 0xa0:  // REPORT LUNS
      data = encode_lun_list(luns());
      allocation = load_be32(&task->cdb[6]);
      break;
    default:
      task->status = Status::check_condition;
      task->sense = encode_sense(sense, false);
  }
  const std::size_t length = std::min<std::size_t>(data.size(), allocation);
  task->data_in = DataBuffer::allocate(length);
  if (task->data_in.size() == length && length > 0) {
    std::memcpy(task->data_in.data(), data.data(), length);
    task->data_in_length = static_cast<std::uint32_t>(length);
  }
  TaskOwner& owner = *task->owner;
  owner.finished(std::move(task));
}

void Device::reset_all(std::uint16_t attention) {
  for (auto& [number, unit] : units_) unit->reset(attention);
}

void Device::stop() {
  for (auto& [number, unit] : units_) unit->stop();
}

bool Device::idle() const {
  return std::ranges::all_of(units_, [](const auto& entry) { return entry.second->idle(); });
}

std::vector<std::uint64_t> Device::luns() const {
  std::vector<std::uint64_t> out;
  for (const auto& [number, unit] : units_) out.push_back(lun_of_number(number));
  return out;
}

}  // namespace tidepool::scsi
