// What a vCPU is before it runs its first instruction: what CPUID tells it, and for the
// first one the registers that the kernel's boot protocol wants.
#pragma once

#include <linux/kvm.h>

#include <span>
#include <vector>

#include "base/result.h"
#include "vmm/boot/boot_loader.h"
#include "vmm/kvm/kvm_vcpu.h"
#include "vmm/memory/guest_ram.h"

namespace tidepool::vmm {

// `supported` for one of `cpus` processors: one socket, a core each, one thread. Without
// virtual machines in the virtual machine: their state could not be saved.
std::vector<kvm_cpuid_entry2> cpuid_of(std::vector<kvm_cpuid_entry2> supported, unsigned cpu,
                                       unsigned cpus);

// Whether a guest that was shown `shown` finds all of it here. unsupported: which leaf of
// CPUID says what this processor, or the kernel, does not offer.
Result<> check_features(std::span<const kvm_cpuid_entry2> shown,
                        std::span<const kvm_cpuid_entry2> supported);

// The first vCPU, to enter the kernel; writes page tables and segments to memory.
Result<> set_up_boot_vcpu(KvmVcpu& vcpu, GuestRam& ram, const BootEntry& entry);

}  // namespace tidepool::vmm
