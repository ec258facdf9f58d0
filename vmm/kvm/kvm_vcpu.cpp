#include "vmm/kvm/kvm_vcpu.h"

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <cerrno>

#include "base/checked.h"
#include "vmm/kvm/kvm_table.h"

namespace tidepool::vmm {

Result<KvmVcpu> KvmVcpu::map(UniqueFd fd, unsigned id, std::size_t run_bytes,
                             std::size_t extended_bytes) {
  void* const page = ::mmap(nullptr, run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (page == MAP_FAILED) return fail_errno(errno, fmt::format("cannot map vCPU {}", id));
  return KvmVcpu(std::move(fd), id, static_cast<kvm_run*>(page), run_bytes, extended_bytes);
}

KvmVcpu::~KvmVcpu() {
  if (run_ != nullptr) ::munmap(run_, run_bytes_);
}

int KvmVcpu::run() { return ::ioctl(fd_.get(), KVM_RUN, 0) == 0 ? 0 : errno; }

std::span<std::byte> KvmVcpu::port_data() {
  const std::uint64_t length = std::uint64_t{run_->io.size} * run_->io.count;
  if (!range_fits(run_->io.data_offset, length, run_bytes_)) return {};
  return {reinterpret_cast<std::byte*>(run_) + run_->io.data_offset, length};
}

Result<> KvmVcpu::call(unsigned long request, void* argument, const char* what) const {
  if (::ioctl(fd_.get(), request, argument) >= 0) return {};
  return fail_errno(errno, fmt::format("vCPU {}: cannot {}", id_, what));
}

Result<> KvmVcpu::set_cpuid(std::span<const kvm_cpuid_entry2> entries) {
  KvmTable<kvm_cpuid_entry2> table(entries);
  if (table.call(fd_.get(), kvm_set_cpuid2) == 0) {
    cpuid_.assign(entries.begin(), entries.end());
    return {};
  }
  return fail_errno(errno, fmt::format("vCPU {}: cannot set what the processor can do", id_));
}

Result<kvm_regs> KvmVcpu::registers() const {
  kvm_regs registers{};
  if (auto done = call(KVM_GET_REGS, &registers, "read its registers"); !done)
    return std::unexpected(done.error());
  return registers;
}

Result<> KvmVcpu::set_registers(const kvm_regs& registers) {
  return call(KVM_SET_REGS, const_cast<kvm_regs*>(&registers), "set its registers");
}

Result<kvm_sregs> KvmVcpu::system_registers() const {
  kvm_sregs registers{};
  if (auto done = call(KVM_GET_SREGS, &registers, "read its system registers"); !done)
    return std::unexpected(done.error());
  return registers;
}

Result<> KvmVcpu::set_system_registers(const kvm_sregs& registers) {
  return call(KVM_SET_SREGS, const_cast<kvm_sregs*>(&registers), "set its system registers");
}

Result<> KvmVcpu::set_msr(std::uint32_t index, std::uint64_t value) {
  kvm_msr_entry entry{};
  entry.index = index;
  entry.data = value;
  KvmTable<kvm_msr_entry> table({&entry, 1});
  if (table.call(fd_.get(), kvm_set_msrs) == 1) return {};
  return fail_errno(errno, fmt::format("vCPU {}: cannot set the register {:#x}", id_, index));
}

}  // namespace tidepool::vmm
