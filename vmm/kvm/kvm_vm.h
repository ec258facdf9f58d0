// A virtual machine of the kernel's KVM: memory slots, the interrupt controllers that
// it emulates, event descriptors on both ways. A thin wrapper: no policy.
//
// Any thread, except where said. Needs Linux 4.12 (immediate exit) or later.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "vmm/kvm/kvm_vcpu.h"
#include "vmm/state/board_state.h"

namespace tidepool::vmm {

class KvmVm {
 public:
  // With the kernel's interrupt controllers (two PICs, an I/O APIC, a local APIC for
  // each vCPU) and timer. Errors say what this machine lacks.
  static Result<std::unique_ptr<KvmVm>> create();

  unsigned most_vcpus() const { return most_vcpus_; }
  // What the kernel and the processor can show to a guest.
  Result<std::vector<kvm_cpuid_entry2>> supported_cpuid() const;

  // length 0 takes the slot away.
  Result<> set_memory(std::uint32_t slot, std::uint64_t guest, std::uint64_t length, void* host,
                      bool log_dirty);
  // The slot's pages that vCPUs wrote since the last call: a bit each.
  Result<> take_dirty_log(std::uint32_t slot, std::span<std::uint64_t> bits);

  Result<KvmVcpu> create_vcpu(unsigned id);

  // A write to the eventfd raises the interrupt `gsi`.
  Result<> connect_interrupt(int eventfd, std::uint32_t gsi);
  // A guest's write to the address, of any length, signals the eventfd instead of
  // coming to us.
  Result<> connect_doorbell(int eventfd, std::uint64_t address);
  Result<> disconnect_doorbell(int eventfd, std::uint64_t address);
  Result<> set_routes(std::span<const kvm_irq_routing_entry> routes);
  Result<> set_level(std::uint32_t gsi, bool high);

  // Which registers of a vCPU's are worth saving, as far as the kernel has them.
  Result<std::vector<std::uint32_t>> msrs_to_save() const;
  // Clock, interrupt controllers, timer; with the vCPUs stopped.
  Result<> save(BoardState& into) const;
  Result<> set_clock(std::uint64_t nanoseconds);    // KVM's, before the vCPUs are restored
  Result<> restore_chips(const BoardState& state);  // after them

 private:
  KvmVm(UniqueFd kvm, UniqueFd vm) : kvm_(std::move(kvm)), vm_(std::move(vm)) {}

  const UniqueFd kvm_, vm_;
  unsigned most_vcpus_ = 1;
  std::size_t run_bytes_ = 0;  // of a vCPU's shared page
};

}  // namespace tidepool::vmm
