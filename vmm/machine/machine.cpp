#include "vmm/machine/machine.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "base/size_text.h"
#include "blockdev/sync_channel.h"
#include "scsi/names.h"
#include "virtio/block_device.h"
#include "virtio/entropy_device.h"
#include "virtio/net_device.h"
#include "virtio/scsi_device.h"
#include "virtio/vhost_user/foreign_kinds.h"
#include "vmm/boot/acpi_tables.h"
#include "vmm/boot/cpu_setup.h"
#include "vmm/memory/memory_layout.h"

namespace tidepool::vmm {

using virtio::vhost_user::foreign_block;
using virtio::vhost_user::foreign_net;

namespace {

Result<> check(const MachineConfig& config) {
  if (config.cpus < 1 || config.cpus > most_cpus) {
    return fail(ErrorKind::invalid_argument, "{} vCPUs are asked for, 1 to {} are possible",
                config.cpus, most_cpus);
  }
  if (config.memory < least_memory || config.memory > most_memory ||
      config.memory % virtio::guest_page != 0) {
    return fail(ErrorKind::invalid_argument,
                "{} of memory are asked for, {} to {} in pages of 4 KiB are possible",
                format_size(config.memory), format_size(least_memory), format_size(most_memory));
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Machine>> Machine::create(MachineConfig config) {
  return make(std::move(config), nullptr);
}

Result<std::unique_ptr<Machine>> Machine::make(MachineConfig config, const MachineState* state) {
  if (auto checked = check(config); !checked) return std::unexpected(checked.error());
  std::unique_ptr<Machine> machine(new Machine(std::move(config)));
  if (auto built = machine->build(state); !built) return std::unexpected(built.error());
  return machine;
}

Machine::~Machine() {
  vcpus_.clear();  // nothing calls the devices any more
  functions_.clear();
}

Result<> Machine::build(const MachineState* state) {
  auto vm = KvmVm::create();
  if (!vm) return std::unexpected(vm.error());
  vm_ = std::move(*vm);
  if (config_.cpus > vm_->most_vcpus()) {
    return fail(ErrorKind::unsupported, "this machine's KVM offers {} vCPUs, {} are asked for",
                vm_->most_vcpus(), config_.cpus);
  }
  routes_ = std::make_unique<InterruptRoutes>(*vm_);
  if (auto installed = routes_->install(); !installed) return installed;
  auto ram = GuestRam::create(*vm_, config_.memory);
  if (!ram) return std::unexpected(ram.error());
  ram_ = std::move(*ram);
  writers_.add(ram_->vcpu_writer());
  if (auto added = add_board(state != nullptr ? state->board : BoardState{}); !added) return added;
  if (auto added = add_devices(); !added) return added;
  if (state != nullptr &&
      (state->functions.size() != functions_.size() || state->vcpus.size() != config_.cpus)) {
    return fail(ErrorKind::corrupt, "the saved machine has {} vCPUs and {} devices, not {} and {}",
                state->vcpus.size(), state->functions.size(), config_.cpus, functions_.size());
  }
  return add_vcpus(state);
}

Result<> Machine::add_board(const BoardState& state) {
  serial_interrupt_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!serial_interrupt_) return fail_errno(errno, "cannot create an eventfd");
  auto connected = vm_->connect_interrupt(serial_interrupt_.get(), serial_interrupt);
  if (!connected) return connected;
  const bool shown = config_.console == ConsoleKind::serial;
  serial_ = std::make_unique<SerialPort>(
      [this, shown](char c) {
        if (!shown) return;
        const std::lock_guard lock(output_mutex_);
        config_.output({&c, 1});
      },
      [this] {
        const std::uint64_t one = 1;
        [[maybe_unused]] const auto written = ::write(serial_interrupt_.get(), &one, sizeof one);
      },
      state.serial);
  clock_ = std::make_unique<RealTimeClock>(state.real_time_clock);
  power_ = std::make_unique<PowerRegisters>([this] { end(Outcome::power_off); },
                                            [this](bool high) {
                                              if (auto set = vm_->set_level(power_interrupt, high);
                                                  !set) {
                                                log().error("{}", set.error().message);
                                              }
                                            },
                                            state.power);
  reset_port_ = std::make_unique<ResetPort>([this] { end(Outcome::reset); });
  struct Place {
    Bus& bus;
    std::uint64_t address, length;
    BusDevice& device;
  };
  for (const Place& place : {
           Place{ports_, serial_port, SerialPort::ports, *serial_},
           Place{ports_, rtc_port, RealTimeClock::ports, *clock_},
           Place{ports_, power_port, PowerRegisters::ports, *power_},
           Place{ports_, reset_port, 1, *reset_port_},
           Place{ports_, PciBus::config_port, PciBus::config_ports, pci_.config_by_ports()},
           Place{memory_bus_, ecam_address, ecam_bytes, pci_.mapped_config()},
       }) {
    if (auto added = place.bus.add(place.address, place.length, place.device); !added) return added;
  }
  return {};
}

Result<> Machine::add_device(std::unique_ptr<virtio::Device> device, ThreadKind kind) {
  device->connect(ram_->map());
  Result<> confined;
  if (config_.confined) {
    device->on_each_thread([&] {
      if (confined) confined = confine_thread(kind);
    });
  }
  if (!confined) return confined;
  for (virtio::MemoryWriter* writer : device->writers()) writers_.add(*writer);
  if (auto untracked = device->untracked_writer(); !untracked.empty()) {
    writers_.add_untracked(untracked);
  }
  const auto bar =
      static_cast<std::uint32_t>(pci_window + functions_.size() * VirtioPci::bar_bytes);
  auto function = VirtioPci::create({*vm_, *routes_, memory_bus_}, std::move(device), bar);
  if (!function) return std::unexpected(function.error());
  functions_.push_back(std::move(*function));
  return pci_.add(*functions_.back());
}

Result<> Machine::add_foreign(const std::string& socket,
                              virtio::vhost_user::ForeignOptions options) {
  auto device = virtio::vhost_user::ForeignDevice::create(socket, std::move(options));
  if (!device) return std::unexpected(device.error());
  return add_device(std::move(*device), ThreadKind::back_end);
}

Result<> Machine::add_scsi() {
  if (config_.scsi_disks.empty()) return {};
  auto thread = scsi::DeviceThread::start();
  if (!thread) return std::unexpected(thread.error());
  scsi_ = std::move(*thread);
  std::uint16_t number = 0;
  for (const auto& store : config_.scsi_disks) {
    scsi::LogicalUnitOptions options;
    options.identity.product = "DISK";
    scsi::name_unit(options.identity, store->name(), number);
    options.block_size = std::max(options.block_size, store->geometry().logical_block);
    // There is nobody else who could hold a reservation, nor be kept out after a restart.
    if (auto added = scsi_->add(number++, store, nullptr, options); !added) return added;
  }
  auto device = virtio::ScsiDevice::create(scsi_->device(), scsi_->loop(),
                                           {.name = "scsi", .port = scsi::local_port("leanvm", 0)});
  if (!device) return std::unexpected(device.error());
  return add_device(std::move(*device));
}

Result<> Machine::add_devices() {
  for (const MachineDisk& disk : config_.disks) {
    if (disk.store == nullptr) {
      if (auto added = add_foreign(disk.vhost_user, foreign_block(disk.queues)); !added) {
        return added;
      }
      continue;
    }
    auto device =
        virtio::BlockDevice::create(disk.store, {.queues = disk.queues, .serial = disk.serial});
    if (!device) return std::unexpected(device.error());
    if (auto added = add_device(std::move(*device)); !added) return added;
  }
  if (auto added = add_scsi(); !added) return added;
  for (MachineNet& net : config_.nets) {
    if (net.port == nullptr) {
      if (auto added = add_foreign(net.vhost_user, foreign_net(net.address)); !added) return added;
      continue;
    }
    auto device = virtio::NetDevice::create(std::move(net.port), net.address);
    if (!device) return std::unexpected(device.error());
    if (auto added = add_device(std::move(*device)); !added) return added;
  }
  auto entropy = virtio::EntropyDevice::create();
  if (!entropy) return std::unexpected(entropy.error());
  if (auto added = add_device(std::move(*entropy)); !added) return added;
  auto balloon = virtio::BalloonDevice::create();
  if (!balloon) return std::unexpected(balloon.error());
  balloon_ = balloon->get();
  if (auto added = add_device(std::move(*balloon)); !added) return added;
  balloon_function_ = functions_.back().get();
  if (config_.console != ConsoleKind::virtio) return {};
  auto console = virtio::ConsoleDevice::create([this](std::span<const iovec> pieces) {
    const std::lock_guard lock(output_mutex_);
    for (const iovec& piece : pieces) {
      config_.output({static_cast<const char*>(piece.iov_base), piece.iov_len});
    }
  });
  if (!console) return std::unexpected(console.error());
  console_ = console->get();
  return add_device(std::move(*console));
}

Result<> Machine::add_vcpus(const MachineState* state) {
  Result<BootEntry> entry;
  if (state == nullptr) {
    const auto tables = acpi_tables(acpi_address, config_.cpus);
    std::memcpy(ram_->at(acpi_address, tables.size()), tables.data(), tables.size());
    entry = load_kernel(*ram_, config_.boot, acpi_address);
    if (!entry) return std::unexpected(entry.error());
  }
  auto cpuid = vm_->supported_cpuid();
  if (!cpuid) return std::unexpected(cpuid.error());
  world_ = std::make_unique<VcpuWorld>(
      VcpuWorld{ports_, memory_bus_, [this] { end(Outcome::reset); },
                [this](Error error) { end(std::unexpected(std::move(error))); }, config_.confined});
  for (unsigned id = 0; id < config_.cpus; ++id) {
    auto vcpu = vm_->create_vcpu(id);
    if (!vcpu) return std::unexpected(vcpu.error());
    Result<> set;
    if (state != nullptr) {
      set = check_features(state->vcpus[id].cpuid, *cpuid);
      if (set) set = vcpu->set_cpuid(state->vcpus[id].cpuid);
    } else {
      set = vcpu->set_cpuid(cpuid_of(*cpuid, id, config_.cpus));
      if (set && id == 0) set = set_up_boot_vcpu(*vcpu, *ram_, *entry);
    }
    if (!set) return set;
    vcpus_.push_back(std::make_unique<VcpuThread>(std::move(*vcpu), *world_));
  }
  return {};
}

void Machine::end(Result<Outcome> how) {
  {
    const std::lock_guard lock(mutex_);
    if (!outcome_) outcome_ = std::move(how);
  }
  ended_.notify_all();
}

void Machine::stop() { end(Outcome::stopped); }

void Machine::press_power_button() { power_->press_button(); }

void Machine::type(std::string_view text) {
  if (console_ != nullptr) {
    console_->type(std::string(text));
  } else {
    serial_->type(text);
  }
}

Result<Outcome> Machine::run() {
  {
    const std::lock_guard life(life_mutex_);
    set_going();
  }
  std::unique_lock lock(mutex_);
  ended_.wait(lock, [&] { return outcome_.has_value(); });
  Result<Outcome> outcome = *outcome_;
  lock.unlock();
  {
    const std::lock_guard life(life_mutex_);
    finished_ = true;
    make_quiet();
  }
  auto flushed = flush_disks();
  if (outcome && !flushed) return std::unexpected(flushed.error());
  return outcome;
}

void Machine::make_quiet() {
  if (!std::exchange(going_, false)) return;
  for (auto& vcpu : vcpus_) vcpu->ask_to_stop();
  for (auto& vcpu : vcpus_) vcpu->wait_until_stopped();
  for (auto& function : functions_) function->quiesce();
}

void Machine::set_going() {
  if (std::exchange(going_, true)) return;
  for (auto& function : functions_) function->resume();
  for (auto& vcpu : vcpus_) vcpu->go();
}

Result<> Machine::pause() {
  const std::lock_guard life(life_mutex_);
  if (finished_) return fail(ErrorKind::busy, "the machine is at its end");
  make_quiet();
  return {};
}

Result<> Machine::resume() {
  const std::lock_guard life(life_mutex_);
  if (finished_) return fail(ErrorKind::busy, "the machine is at its end");
  set_going();
  return {};
}

bool Machine::is_paused() const {
  const std::lock_guard life(life_mutex_);
  return !going_;
}

Result<> Machine::set_balloon(std::uint64_t bytes) {
  if (auto set = balloon_->set_target(bytes); !set) return set;
  balloon_function_->config_changed();
  return {};
}

MachineFigures Machine::figures() const {
  MachineFigures figures{.memory = ram_->size(), .memory_used = ram_->used()};
  figures.balloon = balloon_->figures();
  for (const auto& vcpu : vcpus_) {
    const ExitFigures exits = vcpu->exits();
    figures.exits.port += exits.port;
    figures.exits.memory += exits.memory;
    figures.exits.other += exits.other;
    figures.exits.interrupted += exits.interrupted;
  }
  for (const auto& function : functions_) {
    figures.devices.push_back(function->figures());
    figures.devices.back().slot =
        static_cast<unsigned>(figures.devices.size());  // behind the bridge
  }
  return figures;
}

Result<> Machine::flush_disks() {
  auto stores = config_.scsi_disks;
  for (const MachineDisk& disk : config_.disks) stores.push_back(disk.store);
  Result<> all;
  for (const auto& store : stores) {
    if (store == nullptr || store->geometry().read_only) continue;
    auto channel = blockdev::SyncChannel::open(*store);
    auto flushed = channel ? (*channel)->flush() : std::unexpected(channel.error());
    if (!flushed && all) all = flushed;
  }
  return all;
}

}  // namespace tidepool::vmm
