#include "scsi/device_thread.h"

#include <chrono>
#include <thread>

namespace tidepool::scsi {

Result<std::unique_ptr<DeviceThread>> DeviceThread::start() {
  auto helper = LoopThread::start("scsi-helper", {});
  if (!helper) return std::unexpected(helper.error());
  auto thread = LoopThread::start("scsi", {});
  if (!thread) return std::unexpected(thread.error());
  return std::unique_ptr<DeviceThread>(new DeviceThread(std::move(*helper), std::move(*thread)));
}

DeviceThread::~DeviceThread() {
  thread_->call([this] { device_->stop(); });
  for (bool idle = false; !idle;) {
    thread_->call([&] { idle = device_->idle(); });
    if (!idle) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  thread_->call([this] { device_.reset(); });  // its channels are the loop's
}

Result<> DeviceThread::add(std::uint16_t number, std::shared_ptr<blockdev::BlockStore> store,
                           std::unique_ptr<ReservationStorage> storage,
                           const LogicalUnitOptions& options) {
  Result<> added;
  thread_->call([&] {
    auto unit = LogicalUnit::open(thread_->loop(), *helper_, *device_, std::move(store),
                                  std::move(storage), options);
    if (unit) device_->add(number, std::move(*unit));
    if (!unit) added = std::unexpected(unit.error());
  });
  return added;
}

}  // namespace tidepool::scsi
