// A virtio SCSI host adapter (Virtual I/O Device 1.2, section 5.6) before the logical units
// of a scsi::Device, which other adapters and other transports may share: requests, task
// management, several request queues.
//
// The adapter is one initiator port, and has a nexus of its own as long as it lives: what
// belongs to an initiator (unit attentions, reservations, mode pages' owner) is told apart
// by it. A driver that begins anew gets a new nexus.
//
// All queues are served on the loop of the units. Data is copied once on its way, from
// guest memory when the request starts, to it when it ends: so what the driver changes
// meanwhile changes nothing, and a request that is aborted is answered at once, whatever
// the store still does. Requests wait while much data is under way.
//
// A request that is dropped because of another initiator's task management is answered as
// reset, and its unit's attention tells why.
//
// Limits: no events, as units neither come nor go nor change their size; no protection information,
// no requests with data in both directions. The sizes of sense data and CDB are not changed by the
// driver. What units and nexus remember is not saved.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "scsi/device.h"
#include "virtio/one_thread_device.h"
#include "virtio/scsi_request.h"

namespace tidepool::virtio {

struct ScsiOptions {
  std::string name;                  // for messages
  scsi::PortId port;                 // the initiator port that the adapter is
  std::uint16_t request_queues = 1;  // 1 to 64
};

class ScsiDevice final : public OneThreadDevice, private scsi::TaskOwner {
 public:
  // The loop is the target's; both outlive the adapter. Neither this, nor anything else but
  // drop_all(), is called on that loop's thread.
  static Result<std::unique_ptr<ScsiDevice>> create(scsi::Device& target, EventLoop& loop,
                                                    ScsiOptions options);
  ~ScsiDevice() override;

  std::uint32_t id() const override;
  std::uint64_t features() const override;
  void read_config(std::uint64_t offset, std::span<std::byte> out) const override;
  Result<> start(DeviceStart start) override;

  // On the loop's thread: what is under way is dropped, and answered so.
  void drop_all();

 private:
  struct Slot {
    std::uint64_t index = 0;  // in slots_
    unsigned queue = 0;
    Chain chain;
    ScsiRequest asked;
    bool busy = false;
    bool held = false;       // not yet started
    std::uint64_t cost = 0;  // bytes: of the data that may be under way
    scsi::LogicalUnit* unit = nullptr;
    scsi::TaskId task = 0;
  };
  ScsiDevice(scsi::Device& target, EventLoop& loop, ScsiOptions options);

  // All on the loop's thread.
  bool serve(unsigned queue) override;
  bool serve_later(unsigned queue);
  bool serve_control();
  bool serve_requests(unsigned queue);
  bool begin(Slot& slot);
  void start_held();
  void start_task(Slot& slot);
  void want_data(scsi::Task& task) override;
  void finished(std::unique_ptr<scsi::Task> task) override;
  void dropped(scsi::Task& task) override;
  void answer(Slot& slot, const ScsiResponse& response, std::span<const std::byte> data = {});
  std::uint8_t manage(const ScsiControl& control);
  std::uint8_t manage_unit(const ScsiControl& control, scsi::LogicalUnit& unit);
  void abort_task(const ScsiControl& control, scsi::LogicalUnit& unit);
  // Those that are not yet started, of one address or all.
  void drop_held(const ScsiAddress* address);
  bool has_task(const ScsiControl& control, bool any_id) const;

  scsi::Device& target_;
  const ScsiOptions options_;

  // The loop's thread's.
  scsi::NexusId nexus_ = 0;
  std::vector<std::unique_ptr<Slot>> slots_;  // as many as were ever under way at once
  std::vector<Slot*> free_;
  std::vector<unsigned> taken_;  // chains, of each queue
  std::vector<bool> full_;       // each queue: it may have more, when one is given back
  std::deque<Slot*> held_;       // oldest first
  std::uint64_t under_way_ = 0;  // bytes, sum of costs of what is started
  bool starting_ = false;
  std::uint8_t dropping_;  // what is answered to what is dropped, VIRTIO_SCSI_S_*
};

}  // namespace tidepool::virtio
