// All that a stopped vCPU is, as KVM tells it.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace tidepool::vmm {

inline constexpr std::uint32_t msr_time_stamp_counter = 0x10, msr_deadline = 0x6e0;

struct VcpuState {
  static constexpr std::size_t least_extended = 4096, most_extended = 64 * 1024;  // bytes

  struct Msr {
    std::uint32_t index = 0;
    std::uint64_t value = 0;
  };
  std::vector<kvm_cpuid_entry2> cpuid;
  kvm_mp_state run_state{};
  kvm_regs registers{};
  kvm_sregs system_registers{};
  std::vector<std::byte> extended;  // kvm_xsave, as long as the processor wants it
  kvm_xcrs extended_control{};
  kvm_debugregs debug{};
  kvm_lapic_state local_apic{};
  std::vector<Msr> msrs;
  kvm_vcpu_events events{};
  std::uint32_t counter_khz = 0;  // of the time stamp counter
};

std::vector<std::byte> encode(const VcpuState& state);
// nullopt: makes no sense.
std::optional<VcpuState> decode_vcpu(std::span<const std::byte> bytes);

}  // namespace tidepool::vmm
