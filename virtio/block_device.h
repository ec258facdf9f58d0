// A virtio block device over any BlockStore (Virtual I/O Device 1.2, section 5.2):
// read, write, flush, discard, write-zeroes, get-id, several queues.
//
// Each queue has a thread with an event loop and a channel of the store. Requests run
// on the driver's own buffers; only those that the store's alignment forbids go through
// a buffer of ours. A driver that does not know how to flush gets its writes stable.
//
// Limits: a chain of more than 128 pieces breaks the queue (the driver is told that 126
// pieces of data are the most); the cache mode cannot be changed by the driver.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "blockdev/block_store.h"
#include "virtio/device.h"

namespace tidepool::virtio {

struct BlockOptions {
  std::uint16_t queues = 1;
  std::uint16_t queue_size = 256;  // entries
  std::string serial;              // the first 20 bytes are what get-id answers
};

class BlockQueue;

class BlockDevice final : public Device {
 public:
  static Result<std::unique_ptr<BlockDevice>> create(std::shared_ptr<blockdev::BlockStore> store,
                                                     BlockOptions options);
  ~BlockDevice() override;

  const std::string& name() const override { return name_; }
  std::uint32_t id() const override;
  std::uint64_t features() const override;
  std::vector<std::uint16_t> queue_sizes() const override;
  void read_config(std::uint64_t offset, std::span<std::byte> out) const override;
  void connect(std::shared_ptr<const GuestMemory> memory) override;
  Result<> start(DeviceStart start) override;
  void quiesce() override;
  void resume() override;
  void reset() override;
  std::vector<QueuePosition> positions() const override;
  bool can_be_saved() const override { return true; }
  std::vector<MemoryWriter*> writers() override;
  void on_each_thread(const std::function<void()>& task) override;

 private:
  BlockDevice(std::shared_ptr<blockdev::BlockStore> store, BlockOptions options);

  const std::shared_ptr<blockdev::BlockStore> store_;
  const BlockOptions options_;
  const std::string name_;
  std::vector<std::unique_ptr<BlockQueue>> queues_;  // never resized after create()
};

}  // namespace tidepool::virtio
