// How a machine is saved, and how one is made of what was saved.
#include <algorithm>
#include <ctime>
#include <utility>

#include "vmm/boot/cpu_setup.h"
#include "vmm/machine/machine.h"

namespace tidepool::vmm {

namespace {

constexpr std::uint64_t second = 1'000'000'000;

std::uint64_t now() {  // nanoseconds since 1970
  timespec time{};
  ::clock_gettime(CLOCK_REALTIME, &time);
  return static_cast<std::uint64_t>(time.tv_sec) * second +
         static_cast<std::uint64_t>(time.tv_nsec);
}

}  // namespace

// With the machine quiet.
Result<MachineState> Machine::collect() {
  MachineState state;
  const auto msrs = vm_->msrs_to_save();
  if (!msrs) return std::unexpected(msrs.error());
  for (auto& vcpu : vcpus_) {
    auto saved = vcpu->vcpu().save(*msrs);
    if (!saved) return std::unexpected(saved.error());
    state.vcpus.push_back(std::move(*saved));
  }
  for (auto& function : functions_) state.functions.push_back(function->save());
  if (auto saved = vm_->save(state.board); !saved) return std::unexpected(saved.error());
  state.board.saved_at = now();
  state.board.serial = serial_->save();
  state.board.real_time_clock = clock_->save();
  state.board.power = power_->save();
  state.board.pci = pci_.save();
  return state;
}

Result<> Machine::write(const MachineSetup& setup, const std::filesystem::path& file) {
  if (auto flushed = flush_disks(); !flushed) return flushed;
  const auto state = collect();
  if (!state) return std::unexpected(state.error());
  auto writer = StateWriter::create(file);
  if (!writer) return std::unexpected(writer.error());
  if (auto written = write_state(**writer, setup, *state); !written) return written;
  const auto touched = ram_->touched();
  if (!touched) return std::unexpected(touched.error());
  for (const virtio::GuestRegion& region : *touched) {
    if (auto written = write_memory(**writer, region); !written) return written;
  }
  return (*writer)->finish();
}

Result<> Machine::save(const MachineSetup& setup, const std::filesystem::path& file) {
  for (auto& function : functions_) {
    virtio::Device& device = function->device();
    if (device.can_be_saved()) continue;
    return fail(ErrorKind::unsupported, "the machine cannot be saved: '{}' cannot", device.name());
  }
  const std::lock_guard life(life_mutex_);
  const bool was_going = going_;
  make_quiet();
  {
    const std::lock_guard lock(mutex_);
    if (finished_ || outcome_) return fail(ErrorKind::busy, "the machine is at its end");
  }
  auto written = write(setup, file);
  if (!written) {
    if (was_going) set_going();
    return written;
  }
  finished_ = true;
  end(Outcome::saved);
  return {};
}

Result<std::unique_ptr<Machine>> Machine::restore(MachineConfig config, StateReader& reader) {
  auto state = read_state(reader);
  if (!state) return std::unexpected(state.error());
  const std::uint64_t saved_at = state->board.saved_at;
  const std::uint64_t here = now();
  const auto begun = std::chrono::steady_clock::now();
  const std::uint64_t passed = here > saved_at ? here - saved_at : 0;
  state->board.power.passed += passed;
  auto machine = make(std::move(config), &*state);
  if (!machine) return machine;
  if (auto put = (*machine)->put_back(reader, *state, passed, begun); !put)
    return std::unexpected(put.error());
  return machine;
}

// Memory first: a register that is set may change it. Interrupt controllers last: what
// waits in them goes on to the vCPUs' own.
Result<> Machine::put_back(StateReader& reader, const MachineState& state, std::uint64_t passed,
                           std::chrono::steady_clock::time_point begun) {
  if (auto loaded = read_memory(reader, *ram_->map()); !loaded) return loaded;
  // The power's timer runs since then.
  passed += static_cast<std::uint64_t>(
      std::chrono::nanoseconds(std::chrono::steady_clock::now() - begun).count());
  if (auto set = vm_->set_clock(state.board.clock + passed); !set) return set;
  for (std::size_t i = 0; i < vcpus_.size(); ++i) {
    if (auto set = vcpus_[i]->vcpu().restore(state.vcpus[i], passed); !set) return set;
  }
  if (auto set = vm_->restore_chips(state.board); !set) return set;
  if (auto set = pci_.restore(state.board.pci); !set) return set;
  for (std::size_t i = 0; i < functions_.size(); ++i) {
    if (auto set = functions_[i]->restore(state.functions[i]); !set) return set;
  }
  serial_->raise_pending();
  power_->raise_pending();
  return {};
}

}  // namespace tidepool::vmm
