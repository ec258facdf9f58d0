// A vCPU of KVM: its registers, and the page through which an exit tells why it came.
//
// run() and the registers belong to the thread that runs it; request_exit() is for
// that thread's signal handler.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <span>
#include <utility>

#include "base/result.h"
#include "base/unique_fd.h"

namespace tidepool::vmm {

class KvmVcpu {
 public:
  static Result<KvmVcpu> map(UniqueFd fd, unsigned id, std::size_t run_bytes);
  KvmVcpu(KvmVcpu&& other) noexcept
      : fd_(std::move(other.fd_)),
        id_(other.id_),
        run_(std::exchange(other.run_, nullptr)),
        run_bytes_(other.run_bytes_) {}
  KvmVcpu& operator=(KvmVcpu&&) = delete;
  ~KvmVcpu();

  unsigned id() const { return id_; }
  // Until the next exit. 0, or the errno: EINTR is a signal, or an exit that was asked
  // for; EAGAIN: another vCPU must start this one first.
  int run();
  kvm_run& shared() { return *run_; }
  void request_exit(bool wanted) { run_->immediate_exit = wanted ? 1 : 0; }
  // Where an exit for port I/O has its data.
  std::span<std::byte> port_data();

  Result<> set_cpuid(std::span<const kvm_cpuid_entry2> entries);
  Result<kvm_regs> registers() const;
  Result<> set_registers(const kvm_regs& registers);
  Result<kvm_sregs> system_registers() const;
  Result<> set_system_registers(const kvm_sregs& registers);
  Result<> set_msr(std::uint32_t index, std::uint64_t value);

 private:
  KvmVcpu(UniqueFd fd, unsigned id, kvm_run* run, std::size_t run_bytes)
      : fd_(std::move(fd)), id_(id), run_(run), run_bytes_(run_bytes) {}
  Result<> call(unsigned long request, void* argument, const char* what) const;

  UniqueFd fd_;
  unsigned id_;
  kvm_run* run_;
  std::size_t run_bytes_;
};

}  // namespace tidepool::vmm
