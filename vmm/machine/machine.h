// A virtual machine: memory, vCPUs, buses, devices, from a configuration to its end.
//
// One quiesce order, whatever it is for (pause, save, the end; later checkpoint,
// migration): vCPUs leave the guest -> their exits are finished -> queues take nothing
// more -> what they took is done by the disks -> what was written is harvested -> state.
// resume() is the way back.
//
// run() is the owner's; the machine is made before and destroyed after it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "blockdev/block_store.h"
#include "scsi/device_thread.h"
#include "virtio/balloon_device.h"
#include "virtio/console_device.h"
#include "virtio/mac_address.h"
#include "virtio/packet_port.h"
#include "virtio/vhost_user/foreign_device.h"
#include "vmm/boot/boot_loader.h"
#include "vmm/devices/power.h"
#include "vmm/devices/real_time_clock.h"
#include "vmm/devices/serial_port.h"
#include "vmm/kvm/interrupt_routes.h"
#include "vmm/kvm/kvm_vm.h"
#include "vmm/machine/machine_figures.h"
#include "vmm/machine/vcpu_thread.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/memory/writer_registry.h"
#include "vmm/pci/pci_bus.h"
#include "vmm/pci/virtio_pci.h"
#include "vmm/sandbox/confinement.h"
#include "vmm/state/machine_state.h"

namespace tidepool::vmm {

inline constexpr unsigned most_cpus = 64;
inline constexpr std::uint64_t least_memory = 4ULL << 20;  // bytes
inline constexpr std::uint64_t most_memory = 1ULL << 40;

enum class ConsoleKind { serial, virtio };

struct MachineDisk {
  std::shared_ptr<blockdev::BlockStore> store;  // null: it is a back end's
  std::uint16_t queues = 1;
  std::string serial;
  std::string vhost_user;  // the back end's socket
};

struct MachineNet {
  std::string name;  // of its other end
  virtio::MacAddress address;
  std::unique_ptr<virtio::PacketPort> port;  // the machine takes it; null: it is a back end's
  std::string vhost_user;                    // the back end's socket
};

struct MachineConfig {
  BootFiles boot;
  unsigned cpus = 1;
  std::uint64_t memory = 512ULL << 20;  // bytes
  std::vector<MachineDisk> disks;
  std::vector<std::shared_ptr<blockdev::BlockStore>> scsi_disks;  // units 0, 1, ... of one adapter
  std::vector<MachineNet> nets;
  ConsoleKind console = ConsoleKind::serial;
  bool confined = false;  // each of its threads, once it stands; the process is already
  // What the guest prints, on any thread, one call at a time.
  std::function<void(std::string_view)> output;
};

enum class Outcome { power_off, reset, stopped, saved };

class Machine {
 public:
  // Ready to run: what can be wrong with the configuration is found here.
  static Result<std::unique_ptr<Machine>> create(MachineConfig config);
  // The one that was saved; it goes on with run(). The reader is behind the setup, which
  // the configuration is of.
  static Result<std::unique_ptr<Machine>> restore(MachineConfig config, StateReader& reader);
  ~Machine();

  // Until the guest turns itself off or resets, someone calls stop(), or it cannot go
  // on. When it returns the machine is quiet and its disks are flushed.
  Result<Outcome> run();

  // Any thread.
  void stop();
  void press_power_button();
  void type(std::string_view text);
  // Quiet until resume(); twice is as once. busy: the machine is at its end.
  Result<> pause();
  Result<> resume();
  bool is_paused() const;
  // Makes it quiet, writes all that it is to the file, and ends it: run() returns `saved`.
  // After an error it goes on as before. unsupported: a device cannot be saved, nothing
  // was stopped.
  Result<> save(const MachineSetup& setup, const std::filesystem::path& file);

  WriterRegistry& writers() { return writers_; }
  GuestRam& ram() { return *ram_; }
  virtio::Device& device(std::size_t index) { return functions_[index]->device(); }  // disks first
  const MachineConfig& config() const { return config_; }
  // How much of its memory the guest is asked to give back; 0: nothing. Any thread.
  Result<> set_balloon(std::uint64_t bytes);
  MachineFigures figures() const;  // since the start

 private:
  explicit Machine(MachineConfig config) : config_(std::move(config)) {}
  // state: of the machine that it is to be; its memory and registers follow. Or null.
  static Result<std::unique_ptr<Machine>> make(MachineConfig config, const MachineState* state);
  Result<> build(const MachineState* state);
  Result<> add_board(const BoardState& state);
  Result<> add_device(std::unique_ptr<virtio::Device> device, ThreadKind kind = ThreadKind::device);
  Result<> add_devices();
  Result<> add_scsi();
  Result<> add_foreign(const std::string& socket, virtio::vhost_user::ForeignOptions options);
  Result<> add_vcpus(const MachineState* state);
  Result<MachineState> collect();
  Result<> write(const MachineSetup& setup, const std::filesystem::path& file);
  // passed: nanoseconds from its saving until `begun`.
  Result<> put_back(StateReader& reader, const MachineState& state, std::uint64_t passed,
                    std::chrono::steady_clock::time_point begun);
  Result<> flush_disks();
  void make_quiet();
  void set_going();
  void end(Result<Outcome> how);

  MachineConfig config_;
  std::unique_ptr<KvmVm> vm_;
  std::unique_ptr<InterruptRoutes> routes_;
  std::unique_ptr<GuestRam> ram_;
  WriterRegistry writers_;
  Bus ports_, memory_bus_;
  UniqueFd serial_interrupt_;  // eventfd
  std::unique_ptr<SerialPort> serial_;
  virtio::ConsoleDevice* console_ = nullptr;  // one of functions_, if there is one
  std::unique_ptr<RealTimeClock> clock_;
  std::unique_ptr<PowerRegisters> power_;
  std::unique_ptr<ResetPort> reset_port_;
  std::unique_ptr<scsi::DeviceThread> scsi_;  // the SCSI adapter's units, if there are some
  PciBus pci_;
  std::vector<std::unique_ptr<VirtioPci>> functions_;
  virtio::BalloonDevice* balloon_ = nullptr;  // the device of balloon_function_
  VirtioPci* balloon_function_ = nullptr;     // one of functions_
  std::unique_ptr<VcpuWorld> world_;
  std::vector<std::unique_ptr<VcpuThread>> vcpus_;  // before what they call goes

  mutable std::mutex life_mutex_;  // guards the two below; held while it is made quiet
  bool going_ = false, finished_ = false;

  std::mutex output_mutex_;  // one print at a time
  std::mutex mutex_;         // guards outcome_
  std::condition_variable ended_;
  std::optional<Result<Outcome>> outcome_;
};

}  // namespace tidepool::vmm
