// A virtio balloon (Virtual I/O Device 1.2, section 5.5): the guest gives memory back to
// the host, when it is asked to (inflate), and what it does not use anyway (free page
// reporting).
//
// A page that was given back is zeros and takes none of the host's memory until it is
// touched again; so nothing is to be done when the guest takes it back (deflate). That it
// became zeros is a write like any other, and marked as one.
//
// Guest memory must be a memory file that is mapped shared; of other memory nothing is
// given back, and the guest does not see a difference.
//
// Limits: pages of 4 KiB; no statistics; a guest that promises memory and touches it again
// is not stopped.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "virtio/balloon_pages.h"
#include "virtio/one_thread_device.h"

namespace tidepool::virtio {

inline constexpr std::size_t most_page_numbers = 16 * 1024;  // in one chain

struct BalloonFigures {
  std::uint64_t target = 0;    // bytes that the guest is asked for
  std::uint64_t held = 0;      // bytes that it says it gave
  std::uint64_t released = 0;  // bytes that were given back to the host, since the start
};

class BalloonDevice final : public OneThreadDevice {
 public:
  static Result<std::unique_ptr<BalloonDevice>> create();
  ~BalloonDevice() override { stop_thread(); }

  std::uint32_t id() const override;
  std::uint64_t features() const override;
  bool can_be_saved() const override { return true; }
  std::vector<std::byte> save() const override;
  bool restore(std::span<const std::byte> saved) override;
  bool config_is_state() const override { return true; }
  void read_config(std::uint64_t offset, std::span<std::byte> out) const override;
  void write_config(std::uint64_t offset, std::span<const std::byte> in) override;
  void connect(std::shared_ptr<const GuestMemory> memory) override;

  // Any thread; the transport then tells the driver that the configuration has changed.
  // invalid_argument: more than the guest has.
  Result<> set_target(std::uint64_t bytes);
  BalloonFigures figures() const;

 private:
  BalloonDevice() : OneThreadDevice("balloon", 3, queue_entries) {}
  bool serve(unsigned queue) override;
  bool take_pages(QueueServer& server, bool release);
  void take_report();
  void release(const PageRun& run);

  static constexpr std::uint16_t queue_entries = 128;
  std::uint64_t memory_bytes_ = 0;                  // the transport's thread's
  std::atomic<std::uint32_t> target_{0}, held_{0};  // pages
  Count released_;                                  // bytes
  std::vector<std::byte> numbers_;                  // the thread's
  bool complained_ = false;                         // the thread's
};

}  // namespace tidepool::virtio
