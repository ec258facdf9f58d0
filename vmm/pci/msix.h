// Message-signalled interrupts of one function (MSI-X): its table and pending bits, as
// the guest sees them, and the eventfds by which they are raised without a word to us.
//
// signal() from any thread; a masked vector is kept pending until it is unmasked.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "virtio/device.h"
#include "vmm/devices/bus.h"
#include "vmm/kvm/interrupt_routes.h"
#include "vmm/state/function_state.h"

namespace tidepool::vmm {

class Msix {
 public:
  static constexpr std::uint64_t entry_bytes = 16;
  static constexpr std::uint16_t no_vector = 0xffff;

  // vm and routes outlive it.
  static Result<std::unique_ptr<Msix>> create(KvmVm& vm, InterruptRoutes& routes,
                                              std::uint16_t vectors);

  std::uint16_t vectors() const { return static_cast<std::uint16_t>(entries_.size()); }
  void signal(std::uint16_t vector);  // no_vector and what is beyond: nothing

  // The table's and the pending bits' bytes; 4 or 8, aligned, else ones and nothing.
  void read_table(std::uint64_t offset, std::span<std::byte> out);
  void write_table(std::uint64_t offset, std::span<const std::byte> in);
  void read_pending(std::uint64_t offset, std::span<std::byte> out);
  // What the capability's control word says.
  void set_control(bool enabled, bool all_masked);

  std::vector<VectorState> save();
  // One each; before set_control().
  void restore(std::span<const VectorState> vectors);

 private:
  struct Entry {
    UniqueFd raise;            // eventfd
    std::uint32_t number = 0;  // of the route
    std::uint64_t address = 0;
    std::uint32_t data = 0;
    bool masked = true;
    bool pending = false;
    bool routed = false;  // the route is what the table says
  };
  Msix(InterruptRoutes& routes, std::uint16_t vectors) : routes_(routes), entries_(vectors) {}
  void settle(Entry& entry);
  static void raise(const Entry& entry);

  InterruptRoutes& routes_;
  std::mutex mutex_;            // guards all below; before InterruptRoutes'
  std::vector<Entry> entries_;  // never resized
  bool enabled_ = false, all_masked_ = false;
};

// One queue's interrupt, or the configuration's: the vector that the driver chose.
class MsixInterrupt final : public virtio::Interrupt {
 public:
  // count: one for each signal; outlives it.
  MsixInterrupt(Msix& msix, std::uint16_t vector, virtio::Count& count)
      : msix_(msix), vector_(vector), count_(count) {}
  void signal() override {
    count_.add(1);
    msix_.signal(vector_);
  }

 private:
  Msix& msix_;
  const std::uint16_t vector_;
  virtio::Count& count_;
};

}  // namespace tidepool::vmm
