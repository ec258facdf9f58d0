// A vCPU of KVM: its registers, and the page through which an exit tells why it came.
//
// run() and the registers belong to the thread that runs it; request_exit() is for any.
#pragma once

#include <linux/kvm.h>

#include <atomic>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "vmm/state/vcpu_state.h"

namespace tidepool::vmm {

class KvmVcpu {
 public:
  // extended_bytes: of its extended registers, as KVM hands them out.
  static Result<KvmVcpu> map(UniqueFd fd, unsigned id, std::size_t run_bytes,
                             std::size_t extended_bytes);
  KvmVcpu(KvmVcpu&& other) noexcept
      : fd_(std::move(other.fd_)),
        id_(other.id_),
        run_(std::exchange(other.run_, nullptr)),
        run_bytes_(other.run_bytes_),
        extended_bytes_(other.extended_bytes_),
        cpuid_(std::move(other.cpuid_)) {}
  KvmVcpu& operator=(KvmVcpu&&) = delete;
  ~KvmVcpu();

  unsigned id() const { return id_; }
  // Until the next exit. 0, or the errno: EINTR is a signal, or an exit that was asked
  // for; EAGAIN: another vCPU must start this one first.
  int run();
  kvm_run& shared() { return *run_; }
  void request_exit(bool wanted) { std::atomic_ref(run_->immediate_exit).store(wanted ? 1 : 0); }
  // Where an exit for port I/O has its data.
  std::span<std::byte> port_data();

  Result<> set_cpuid(std::span<const kvm_cpuid_entry2> entries);
  Result<kvm_regs> registers() const;
  Result<> set_registers(const kvm_regs& registers);
  Result<kvm_sregs> system_registers() const;
  Result<> set_system_registers(const kvm_sregs& registers);
  Result<> set_msr(std::uint32_t index, std::uint64_t value);

  // All that it is, of a stopped one. msrs: those that are worth it; what this vCPU does
  // not have is left out.
  Result<VcpuState> save(std::span<const std::uint32_t> msrs) const;
  // The same again, in a new one; its counter goes on as if it had counted meanwhile for
  // `passed` nanoseconds. The guest's memory is as it was before that.
  Result<> restore(const VcpuState& state, std::uint64_t passed);

 private:
  KvmVcpu(UniqueFd fd, unsigned id, kvm_run* run, std::size_t run_bytes, std::size_t extended_bytes)
      : fd_(std::move(fd)),
        id_(id),
        run_(run),
        run_bytes_(run_bytes),
        extended_bytes_(extended_bytes) {}
  Result<> call(unsigned long request, void* argument, const char* what) const;
  std::vector<VcpuState::Msr> read_msrs(std::span<const std::uint32_t> indexes) const;
  Result<> write_msrs(std::span<const VcpuState::Msr> msrs);
  Result<> set_counter_rate(std::uint32_t khz);

  UniqueFd fd_;
  unsigned id_;
  kvm_run* run_;
  std::size_t run_bytes_;
  std::size_t extended_bytes_;
  // As it was set: the kernel shows some of it otherwise once the guest has run.
  std::vector<kvm_cpuid_entry2> cpuid_;
};

}  // namespace tidepool::vmm
