// A virtio console with one port (Virtual I/O Device 1.2, section 5.3).
//
// What the guest writes goes to `output`, on the device's thread. What is typed waits
// until the guest offers room for it.
//
// Limits: at most most_typed bytes wait, more are dropped; the size of the terminal is
// not told.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>

#include "virtio/one_thread_device.h"

namespace tidepool::virtio {

inline constexpr std::size_t most_typed = 64 * 1024;

class ConsoleDevice final : public OneThreadDevice {
 public:
  static Result<std::unique_ptr<ConsoleDevice>> create(
      std::function<void(std::span<const iovec>)> output);
  ~ConsoleDevice() override { stop_thread(); }

  std::uint32_t id() const override;
  bool can_be_saved() const override { return true; }
  std::vector<std::byte> save() const override;  // what waits
  bool restore(std::span<const std::byte> saved) override;
  std::uint64_t features() const override { return ring_features; }
  void type(std::string bytes);  // any thread

 private:
  explicit ConsoleDevice(std::function<void(std::span<const iovec>)> output)
      : OneThreadDevice("console", 2, queue_entries), output_(std::move(output)) {}
  bool serve(unsigned queue) override;
  bool receive(QueueServer& server);
  void transmit(QueueServer& server);

  static constexpr std::uint16_t queue_entries = 64;
  const std::function<void(std::span<const iovec>)> output_;
  std::string typed_;  // the thread's
};

}  // namespace tidepool::virtio
