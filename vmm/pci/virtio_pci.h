// The PCI transport of a virtio device (Virtual I/O Device 1.2, section 4.1, modern
// only): configuration structures in one BAR, MSI-X, a doorbell for each queue that the
// kernel hands to the device's thread.
//
// The BAR: common configuration, ISR, the device's configuration, doorbells, MSI-X table,
// pending bits, a page each.
//
// Limits: no legacy interface, no INTx: the ISR is always zero. A queue's reset alone is
// not offered. A device whose driver broke the rules says so in its status
// (DEVICE_NEEDS_RESET) and rests until it is reset.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "virtio/device.h"
#include "vmm/devices/bus.h"
#include "vmm/pci/config_space.h"
#include "vmm/pci/device_figures.h"
#include "vmm/pci/msix.h"
#include "vmm/pci/pci_bus.h"
#include "vmm/state/function_state.h"

namespace tidepool::vmm {

// What a function needs of its machine; all outlive it.
struct PciHost {
  KvmVm& vm;
  InterruptRoutes& routes;
  Bus& memory_bus;
};

class VirtioPci final : public PciFunction, private BusDevice {
 public:
  static constexpr std::uint32_t bar_bytes = 0x8000;

  // The device is connected to its memory.
  static Result<std::unique_ptr<VirtioPci>> create(const PciHost& host,
                                                   std::unique_ptr<virtio::Device> device,
                                                   std::uint32_t bar_address);
  ~VirtioPci() override;

  virtio::Device& device() { return *device_; }
  // The device as it is, started or not; the machine's thread, with the vCPUs stopped.
  void quiesce();
  void resume();
  // Of a quiet function. restore(): into a new one, whose device rests until resume();
  // the guest's memory must be there by then.
  FunctionState save();
  // What the driver reads of the device has changed: it is told so. Any thread.
  void config_changed();
  // Any thread. Its place on the bus is not known here.
  DeviceFigures figures() const;
  Result<> restore(const FunctionState& state);

  void read_config(std::uint64_t offset, std::span<std::byte> out) override;
  void write_config(std::uint64_t offset, std::span<const std::byte> in) override;

 private:
  struct Queue {
    std::uint16_t size = 0;
    std::uint16_t vector = Msix::no_vector;
    bool enabled = false;
    std::uint64_t descriptors = 0, available = 0, used = 0;
    UniqueFd kick;                             // eventfd
    std::unique_ptr<MsixInterrupt> interrupt;  // while the device is started
  };
  struct Counted {
    virtio::QueueFigures queue;
    virtio::Count interrupts;
  };
  VirtioPci(const PciHost& host, std::unique_ptr<virtio::Device> device);
  void describe(std::uint32_t bar_address);

  // The BAR.
  void read(std::uint64_t offset, std::span<std::byte> out) override;
  void write(std::uint64_t offset, std::span<const std::byte> in) override;
  std::uint64_t read_common(std::uint64_t offset);
  void write_common(std::uint64_t offset, std::uint64_t value);
  void write_queue_address(Queue& queue, std::uint64_t offset, std::uint64_t value);
  void set_status(std::uint8_t status);
  bool start(std::span<const virtio::QueuePosition> positions);
  Result<> check(const FunctionState& state) const;
  void signal_all();
  std::array<std::byte, 64> device_config() const;
  void reset();
  void break_down(const std::string& why);
  void place_bar();
  void connect_doorbells(std::uint64_t bar, bool connect);

  const PciHost host_;
  const std::unique_ptr<virtio::Device> device_;
  std::unique_ptr<Msix> msix_;                     // constant after construction
  std::vector<std::unique_ptr<Counted>> counted_;  // as constant; of each queue
  std::atomic<bool> broken_{false};
  std::atomic<unsigned> complaints_{0};
  std::atomic<std::uint8_t> generation_{0};  // of the device's configuration
  std::atomic<std::uint16_t> config_vector_{Msix::no_vector};

  std::mutex mutex_;  // guards all below; before the device's threads are waited for
  ConfigSpace config_;
  std::uint8_t msix_capability_ = 0, window_capability_ = 0;
  std::uint64_t placed_at_ = 0;  // the BAR on the bus; 0: nowhere
  std::uint8_t status_ = 0;
  std::uint32_t device_feature_select_ = 0, driver_feature_select_ = 0;
  std::uint64_t driver_features_ = 0;
  std::uint16_t queue_select_ = 0;
  std::vector<Queue> queues_;
  bool started_ = false;
  // Of a restored function that was not resumed yet: where its device starts.
  std::optional<std::vector<virtio::QueuePosition>> starts_at_;
};

}  // namespace tidepool::vmm
