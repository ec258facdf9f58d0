// A SCSI device on a thread of its own, beside a helper's: for programs whose other threads
// may not run its loop.
#pragma once

#include <memory>

#include "base/loop_thread.h"
#include "scsi/device.h"

namespace tidepool::scsi {

class DeviceThread {
 public:
  static Result<std::unique_ptr<DeviceThread>> start();
  // Not on its thread; nobody uses the device any more. Waits until the stores have answered.
  ~DeviceThread();
  DeviceThread(const DeviceThread&) = delete;
  DeviceThread& operator=(const DeviceThread&) = delete;

  // number: each once. Not on its thread.
  Result<> add(std::uint16_t number, std::shared_ptr<blockdev::BlockStore> store,
               std::unique_ptr<ReservationStorage> storage, const LogicalUnitOptions& options);
  EventLoop& loop() { return thread_->loop(); }
  Device& device() { return *device_; }  // the loop's

 private:
  DeviceThread(std::unique_ptr<LoopThread> helper, std::unique_ptr<LoopThread> thread)
      : helper_(std::move(helper)),
        thread_(std::move(thread)),
        device_(std::make_unique<Device>()) {}

  const std::unique_ptr<LoopThread> helper_, thread_;
  std::unique_ptr<Device> device_;
};

}  // namespace tidepool::scsi
