// How a vCPU is taken out of KVM and put into another one.
//
// The order matters, on both ways. The run state is read first: reading it lets the
// kernel act upon start-up messages between processors, which changes others. Registers
// of model-specific kind, the timer's deadline among them, are read before the local
// APIC: a deadline that passes in between is then in both, and comes twice instead of
// never. They are written after it, because a deadline needs a timer that has one, and
// the counter before the deadline that is compared with it.
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>

#include "vmm/kvm/kvm_table.h"
#include "vmm/kvm/kvm_vcpu.h"

namespace tidepool::vmm {

namespace {

// What the rates of two machines' counters may differ by, and still be called the same.
constexpr std::uint32_t tolerance_per_million = 250;

std::vector<kvm_msr_entry> entries_of(std::span<const VcpuState::Msr> msrs) {
  std::vector<kvm_msr_entry> entries;
  for (const VcpuState::Msr& msr : msrs) {
    kvm_msr_entry& entry = entries.emplace_back();
    entry.index = msr.index;
    entry.data = msr.value;
  }
  return entries;
}

}  // namespace

// Those that the vCPU has. The kernel stops at one that it does not.
std::vector<VcpuState::Msr> KvmVcpu::read_msrs(std::span<const std::uint32_t> indexes) const {
  std::vector<VcpuState::Msr> msrs;
  while (!indexes.empty()) {
    std::vector<VcpuState::Msr> wanted;
    for (const std::uint32_t index : indexes) wanted.push_back({index, 0});
    KvmTable<kvm_msr_entry> table(std::span<const kvm_msr_entry>(entries_of(wanted)));
    const int result = table.call(fd_.get(), kvm_get_msrs);
    const auto count = static_cast<std::size_t>(std::max(result, 0));
    const auto entries = table.entries();
    for (std::size_t i = 0; i < std::min(count, entries.size()); ++i)
      msrs.push_back({entries[i].index, entries[i].data});
    indexes = indexes.subspan(std::min(count + 1, indexes.size()));
  }
  return msrs;
}

// One that cannot be written is as good if it has the value already.
Result<> KvmVcpu::write_msrs(std::span<const VcpuState::Msr> msrs) {
  while (!msrs.empty()) {
    KvmTable<kvm_msr_entry> table(std::span<const kvm_msr_entry>(entries_of(msrs)));
    const int result = table.call(fd_.get(), kvm_set_msrs);
    const auto count = static_cast<std::size_t>(std::max(result, 0));
    if (count >= msrs.size()) return {};
    const VcpuState::Msr& refused = msrs[count];
    const auto now = read_msrs({&refused.index, 1});
    if (now.empty() || now[0].value != refused.value) {
      return fail(ErrorKind::unsupported,
                  "vCPU {}: this processor does not take {:#x} for its register {:#x}", id_,
                  refused.value, refused.index);
    }
    msrs = msrs.subspan(count + 1);
  }
  return {};
}

Result<> KvmVcpu::set_counter_rate(std::uint32_t khz) {
  const int here = ::ioctl(fd_.get(), KVM_GET_TSC_KHZ, 0);
  if (here <= 0 || khz == 0) return {};  // the kernel does not know it
  const auto rate = static_cast<std::uint32_t>(here);
  const std::uint64_t difference = rate > khz ? rate - khz : khz - rate;
  if (difference * 1'000'000 <= std::uint64_t{khz} * tolerance_per_million) return {};
  if (::ioctl(fd_.get(), KVM_SET_TSC_KHZ, static_cast<unsigned long>(khz)) == 0) return {};
  return fail(ErrorKind::unsupported,
              "vCPU {}: this processor's counter runs at {} kHz and cannot be made to run at {}",
              id_, rate, khz);
}

Result<VcpuState> KvmVcpu::save(std::span<const std::uint32_t> msrs) const {
  VcpuState state;
  state.extended.resize(extended_bytes_);
  const unsigned long read_extended =
      extended_bytes_ > VcpuState::least_extended ? kvm_get_xsave2 : kvm_get_xsave;
  struct Part {
    unsigned long request;
    void* place;
    const char* what;
  };
  const auto read = [&](std::span<const Part> parts) -> Result<> {
    for (const Part& part : parts) {
      if (auto done = call(part.request, part.place, part.what); !done) return done;
    }
    return {};
  };
  const Part before[] = {
      {KVM_GET_MP_STATE, &state.run_state, "read whether it runs"},
      {KVM_GET_REGS, &state.registers, "read its registers"},
      {KVM_GET_SREGS, &state.system_registers, "read its system registers"},
      {read_extended, state.extended.data(), "read its extended registers"},
      {KVM_GET_XCRS, &state.extended_control, "read its extended control registers"},
      {KVM_GET_DEBUGREGS, &state.debug, "read its debug registers"},
  };
  if (auto done = read(before); !done) return std::unexpected(done.error());
  state.msrs = read_msrs(msrs);
  const Part after[] = {
      {KVM_GET_LAPIC, &state.local_apic, "read its interrupt controller"},
      {KVM_GET_VCPU_EVENTS, &state.events, "read what it is about to do"},
  };
  if (auto done = read(after); !done) return std::unexpected(done.error());
  state.cpuid = cpuid_;
  const int khz = ::ioctl(fd_.get(), KVM_GET_TSC_KHZ, 0);
  state.counter_khz = static_cast<std::uint32_t>(std::max(khz, 0));
  return state;
}

Result<> KvmVcpu::restore(const VcpuState& state, std::uint64_t passed) {
  VcpuState copy = state;
  if (copy.extended.size() > extended_bytes_) {
    return fail(ErrorKind::unsupported,
                "vCPU {}: this processor lacks registers that the guest may use", id_);
  }
  copy.extended.resize(extended_bytes_);  // the kernel reads as many
  if (auto done = set_counter_rate(state.counter_khz); !done) return done;
  struct Part {
    unsigned long request;
    void* place;
    const char* what;
  };
  const Part parts[] = {
      {KVM_SET_MP_STATE, &copy.run_state, "set whether it runs"},
      {KVM_SET_REGS, &copy.registers, "set its registers"},
      {KVM_SET_SREGS, &copy.system_registers, "set its system registers"},
      {kvm_set_xsave, copy.extended.data(), "set its extended registers"},
      {KVM_SET_XCRS, &copy.extended_control, "set its extended control registers"},
      {KVM_SET_DEBUGREGS, &copy.debug, "set its debug registers"},
      {KVM_SET_LAPIC, &copy.local_apic, "set its interrupt controller"},
  };
  for (const Part& part : parts) {
    if (auto done = call(part.request, part.place, part.what); !done) return done;
  }
  for (VcpuState::Msr& msr : copy.msrs) {
    if (msr.index != msr_time_stamp_counter) continue;
    // In two parts, so that no product is too large.
    constexpr std::uint64_t unit = 1'000'000;  // nanoseconds: of a kHz, one count
    const std::uint64_t khz = state.counter_khz;
    msr.value += passed / unit * khz + passed % unit * khz / unit;
  }
  // Last the counter, then the deadline.
  for (const std::uint32_t index : {msr_time_stamp_counter, msr_deadline}) {
    const auto found = std::ranges::find(copy.msrs, index, &VcpuState::Msr::index);
    if (found != copy.msrs.end()) std::rotate(found, found + 1, copy.msrs.end());
  }
  if (auto done = write_msrs(copy.msrs); !done) return done;
  if (auto done = call(KVM_SET_VCPU_EVENTS, &copy.events, "set what it is about to do"); !done)
    return done;
  // Its watchdogs are told that it stood still; a guest that does not listen need not be.
  (void)::ioctl(fd_.get(), KVM_KVMCLOCK_CTRL, 0);
  return {};
}

}  // namespace tidepool::vmm
