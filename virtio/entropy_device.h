// A virtio entropy device: random bytes of the host's kernel (Virtual I/O Device 1.2,
// section 5.4).
//
// Limit: one chain is given at most most_entropy bytes.
#pragma once

#include <memory>

#include "virtio/one_thread_device.h"

namespace tidepool::virtio {

inline constexpr std::uint32_t most_entropy = 64 * 1024;

class EntropyDevice final : public OneThreadDevice {
 public:
  static Result<std::unique_ptr<EntropyDevice>> create();
  ~EntropyDevice() override { stop_thread(); }

  std::uint32_t id() const override;
  bool can_be_saved() const override { return true; }
  std::uint64_t features() const override { return ring_features; }

 private:
  EntropyDevice() : OneThreadDevice("entropy", 1, queue_entries) {}
  bool serve(unsigned queue) override;

  static constexpr std::uint16_t queue_entries = 64;
};

}  // namespace tidepool::virtio
