// One command on its way through a logical unit.
//
// The transport makes it, hands it over (LogicalUnit::submit) and gets it back when
// it is finished. A task that is aborted is not given back: its owner is told, and the
// logical unit keeps it, and the memory the store may still be using, until the
// store's requests have truly ended.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "blockdev/block_store.h"
#include "blockdev/range_locks.h"
#include "scsi/data_buffer.h"
#include "scsi/sense.h"

namespace tidepool::scsi {

class LogicalUnit;
struct Command;
struct Task;

using NexusId = std::uint64_t;  // an I_T nexus; never used again after its loss
using TaskId = std::uint64_t;   // never used again in the life of a logical unit

enum class TaskAttribute : std::uint8_t { simple, ordered, head_of_queue, aca };

// What a transport is asked and told. Called on the logical unit's loop; from within a
// call the logical unit may be used again.
class TaskOwner {
 public:
  virtual ~TaskOwner() = default;
  // The task's data-out is wanted: LogicalUnit::data_arrived() when it is all there.
  virtual void want_data(Task& task) = 0;
  virtual void finished(std::unique_ptr<Task> task) = 0;
  // Aborted, will not be answered; the task must not be touched after this call.
  virtual void dropped(Task& task) = 0;
};

// What a step of a task continues with; error: 0 or the store's positive errno.
using Step = void (*)(LogicalUnit& unit, Task& task, int error);

struct StoreRequest : blockdev::IoRequest {
  Task* task = nullptr;
};

struct HeldRange : blockdev::RangeLock {
  Task* task = nullptr;
  bool held = false;
};

struct Task {
  // Constant from submission on.
  TaskOwner* owner = nullptr;
  NexusId nexus = 0;
  std::uint64_t tag = 0;  // the transport's
  TaskAttribute attribute = TaskAttribute::simple;
  std::array<std::byte, 16> cdb{};
  std::uint32_t data_out_length = 0;  // bytes that the initiator offers
  DataBuffer data_out;
  bool data_complete = true;                // false: data-out is still to come
  std::uint32_t data_in_room = UINT32_MAX;  // bytes that the initiator takes at most

  // What the transport sends.
  Status status = Status::good;
  std::vector<std::byte> sense;
  DataBuffer data_in;
  std::uint32_t data_in_length = 0;   // bytes; data_in has them as far as there is room
  std::uint32_t data_out_wanted = 0;  // bytes that the command has taken or would have

  // The logical unit's.
  TaskId id = 0;
  const Command* command = nullptr;
  LogicalUnit* unit = nullptr;
  bool active = false;  // started
  bool aborted = false;
  bool busy = false;  // with the store, or waiting for a range
  StoreRequest request;
  iovec buffer{};
  HeldRange range;
  bool holds = false;            // the range, at the other hosts, or asks for it
  std::uint64_t checked_by = 0;  // the state of all hosts that its reservation check saw
  Step next = nullptr;
  DataBuffer scratch;
  std::uint64_t offset = 0;  // bytes: where the command stands
  std::uint64_t end = 0;     // bytes
  std::uint64_t index = 0;   // of a descriptor in the parameter list

  std::uint8_t byte(unsigned i) const { return std::to_integer<std::uint8_t>(cdb[i]); }
};

}  // namespace tidepool::scsi
