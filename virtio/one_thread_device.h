// What devices share that serve all of their queues on one thread: net, entropy,
// console with one of their own, SCSI with that of its logical units.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/loop_thread.h"
#include "virtio/device.h"
#include "virtio/queue_server.h"

namespace tidepool::virtio {

class OneThreadDevice : public Device {
 public:
  const std::string& name() const override { return writer_.name(); }
  std::vector<std::uint16_t> queue_sizes() const override;
  void read_config(std::uint64_t offset, std::span<std::byte> out) const override;
  void connect(std::shared_ptr<const GuestMemory> memory) override;
  Result<> start(DeviceStart start) override;
  void quiesce() override;
  void resume() override;
  void reset() override;
  std::vector<QueuePosition> positions() const override { return positions_; }
  std::vector<MemoryWriter*> writers() override { return {&writer_}; }
  void on_each_thread(const std::function<void()>& task) override { call(task); }

 protected:
  OneThreadDevice(const std::string& name, unsigned queues, std::uint16_t queue_size);
  // One of these, before the first start().
  Result<> start_thread();
  // The loop is run by a thread that is not the transport's, and outlives the device.
  void serve_on(EventLoop& loop) { loop_ = &loop; }
  EventLoop& loop() const { return *loop_; }
  // Runs the task on the loop's thread and waits for its end. Not on that thread.
  void call(const std::function<void()>& task) const { call_on(*loop_, task); }
  void stop_thread() { thread_.reset(); }  // first thing in the destructor of what derives

  // All on the thread. Takes what the queue has; false: more() is called later.
  virtual bool serve(unsigned queue) = 0;
  QueueServer* server(unsigned queue) { return servers_[queue] ? &*servers_[queue] : nullptr; }
  Chain& chain() { return chain_; }  // for one at a time

 private:
  const std::uint16_t queue_size_;
  MemoryWriter writer_;
  std::vector<QueuePosition> positions_;             // since the last quiesce()
  std::vector<std::optional<QueueServer>> servers_;  // the thread's
  Chain chain_;                                      // the thread's
  std::unique_ptr<LoopThread> thread_;               // null: another's loop
  EventLoop* loop_ = nullptr;
};

}  // namespace tidepool::virtio
