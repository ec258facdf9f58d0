// A guest's RAM: one memfd, mapped once, in one or two regions around the hole below
// 4 GiB, each a slot of KVM.
//
// Pages are taken when they are first touched. The memfd can be given to another
// process, who then is a writer to be registered.
//
// The vCPUs' writes are tracked by KVM's own log: tracking() is their entry in the
// registry.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "virtio/guest_memory.h"
#include "vmm/kvm/kvm_vm.h"
#include "vmm/memory/writer_registry.h"

namespace tidepool::vmm {

class GuestRam {
 public:
  // bytes: a multiple of the page. `vm` outlives it.
  static Result<std::unique_ptr<GuestRam>> create(KvmVm& vm, std::uint64_t bytes);
  ~GuestRam();
  GuestRam(const GuestRam&) = delete;
  GuestRam& operator=(const GuestRam&) = delete;

  std::uint64_t size() const { return bytes_; }
  std::uint64_t low_end() const { return map_->regions().front().length; }
  const std::shared_ptr<const virtio::GuestMemory>& map() const { return map_; }
  // For who fills it before the guest runs; null unless it is all RAM.
  std::byte* at(std::uint64_t address, std::uint64_t length) const {
    return map_->at(address, length);
  }
  std::uint64_t used() const;  // bytes of it that take the host's memory
  // The parts of it that were ever written to, in whole pages: the rest reads as zeros,
  // and a look at it would take memory.
  Result<std::vector<virtio::GuestRegion>> touched() const;
  // The vCPUs as a writer. The RAM outlives it.
  std::unique_ptr<Writer> vcpu_writer();

 private:
  GuestRam(KvmVm& vm, UniqueFd memory, std::byte* host, std::uint64_t bytes)
      : vm_(vm), memory_(std::move(memory)), host_(host), bytes_(bytes) {}
  Result<> map_slots(bool log_dirty);

  friend class VcpuWriter;
  KvmVm& vm_;
  const UniqueFd memory_;  // memfd
  std::byte* const host_;
  const std::uint64_t bytes_;
  std::shared_ptr<const virtio::GuestMemory> map_;
};

}  // namespace tidepool::vmm
