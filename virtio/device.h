// A virtio device without its transport: what a PCI function, or a vhost-user socket,
// puts around it.
//
// Life: made -> connect() -> start() (the driver is ready) -> quiesce() <-> resume() ->
// reset() -> start() ...
// All of these are called by one thread at a time, the transport's; the queues are
// served on threads of the device's own. After quiesce() and reset() nothing of the
// device touches guest memory or its disk, and positions() says how far the queues
// are: what a saved device is started from again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "virtio/guest_memory.h"
#include "virtio/queue_figures.h"
#include "virtio/split_queue.h"

namespace tidepool::virtio {

// Bits of the feature word that belong to no kind of device.
inline constexpr std::uint64_t feature_indirect = std::uint64_t{1} << 28;
inline constexpr std::uint64_t feature_event_index = std::uint64_t{1} << 29;
inline constexpr std::uint64_t feature_version_1 = std::uint64_t{1} << 32;
inline constexpr std::uint64_t ring_features =
    feature_indirect | feature_event_index | feature_version_1;

// How a queue tells the driver that something was used. Any thread.
class Interrupt {
 public:
  virtual ~Interrupt() = default;
  virtual void signal() = 0;
};

struct QueueStart {
  QueueLayout layout;
  QueuePosition position;
  int kick = -1;                         // an eventfd that the transport keeps open until reset()
  Interrupt* interrupt = nullptr;        // as long
  InflightNotes* notes = nullptr;        // as long; null: none are kept
  std::vector<std::uint16_t> left = {};  // heads that the notes say were left
  QueueFigures* figures = nullptr;       // as long; null: nobody counts
};

struct DeviceStart {
  std::uint64_t features = 0;                     // what the driver took of features()
  std::vector<std::optional<QueueStart>> queues;  // none: the driver does not use that one
  // The driver broke the rules: called once, on a thread of the device's. The device
  // does nothing more until reset().
  std::function<void(const std::string& why)> broken;
};

class Device {
 public:
  virtual ~Device() = default;  // after reset()

  virtual const std::string& name() const = 0;  // for messages
  virtual std::uint32_t id() const = 0;         // the standard's number of the kind
  virtual std::uint64_t features() const = 0;
  virtual std::vector<std::uint16_t> queue_sizes() const = 0;  // at most so many entries
  // Copies the configuration from `offset` on; what is beyond its end reads as zeros.
  virtual void read_config(std::uint64_t offset, std::span<std::byte> out) const = 0;

  // What the driver writes there; most devices have nothing that it may write.
  virtual void write_config(std::uint64_t, std::span<const std::byte>) {}
  // Whether the configuration is what the device keeps (save()), not what it is.
  virtual bool config_is_state() const { return false; }

  // Gives it the guest's memory; again when that changes, after reset().
  virtual void connect(std::shared_ptr<const GuestMemory> memory) = 0;
  virtual Result<> start(DeviceStart start) = 0;
  // No further chain is taken; returns when those that were are given back.
  virtual void quiesce() = 0;
  virtual void resume() = 0;
  virtual void reset() = 0;
  virtual std::vector<QueuePosition> positions() const = 0;  // of a quiet device
  // Whether a machine that has it can be saved. One that keeps something elsewhere, in
  // another process or another machine, cannot.
  virtual bool can_be_saved() const { return false; }
  // What a quiet device keeps beside its queues, and a new one is given before start().
  // False: that makes no sense.
  virtual std::vector<std::byte> save() const { return {}; }
  virtual bool restore(std::span<const std::byte> saved) { return saved.empty(); }
  // Those that write to guest memory for the device, as long as it lives.
  virtual std::vector<MemoryWriter*> writers() = 0;
  // Runs the task on each thread of the device's, one after the other; returns when all have.
  virtual void on_each_thread(const std::function<void()>& task) = 0;
  // Who writes to it without telling, for messages; empty: nobody.
  virtual std::string untracked_writer() const { return {}; }
};

}  // namespace tidepool::virtio
