// A SCSI target device: logical units by number, and the nexuses that reach them.
//
// Limit: belongs to one event loop.
#pragma once

#include <map>
#include <memory>
#include <optional>

#include "scsi/logical_unit.h"

namespace tidepool::scsi {

class Device : public LunDirectory {
 public:
  static constexpr std::uint16_t most_luns = 256;

  // number < most_luns, each once.
  void add(std::uint16_t number, std::unique_ptr<LogicalUnit> unit) {
    units_.emplace(number, std::move(unit));
  }

  NexusId connect(const PortId& port);
  void disconnect(NexusId nexus);

  // `lun`: its 8 bytes as on the wire. May finish the task before it returns.
  void submit(std::uint64_t lun, std::unique_ptr<Task> task);
  // Null: there is none.
  LogicalUnit* find(std::uint64_t lun) const;
  void reset_all(std::uint16_t attention);
  void stop();
  bool idle() const;

  std::vector<std::uint64_t> luns() const override;

 private:
  void answer_for_absent(std::unique_ptr<Task> task) const;

  std::map<std::uint16_t, std::unique_ptr<LogicalUnit>> units_;
  NexusId last_nexus_ = 0;
};

// A number of a single-level LUN structure; nothing for others.
std::optional<std::uint16_t> lun_number(std::uint64_t lun);
std::uint64_t lun_of_number(std::uint16_t number);

}  // namespace tidepool::scsi
