// Which interrupt of the guest each interrupt number of KVM is: the I/O APIC's pins,
// and message-signalled ones that devices ask for.
//
// Any thread.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <map>
#include <mutex>

#include "base/result.h"
#include "vmm/kvm/kvm_vm.h"

namespace tidepool::vmm {

class InterruptRoutes {
 public:
  explicit InterruptRoutes(KvmVm& vm) : vm_(vm) {}

  // The I/O APIC's pins and nothing else; before the guest runs.
  Result<> install();
  // A number of its own for a message-signalled interrupt.
  std::uint32_t take_number();
  // What the number sends from now on.
  Result<> set_message(std::uint32_t number, std::uint64_t address, std::uint32_t data);

 private:
  Result<> update();  // under mutex_

  static constexpr std::uint32_t pins = 24;  // of the I/O APIC

  KvmVm& vm_;
  std::mutex mutex_;  // guards all below; held during the kernel's update
  std::uint32_t next_ = pins;
  std::map<std::uint32_t, kvm_irq_routing_entry> messages_;
};

}  // namespace tidepool::vmm
