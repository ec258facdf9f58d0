#include "vmm/kvm/kvm_vm.h"

#include <fcntl.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "vmm/kvm/kvm_table.h"

namespace tidepool::vmm {

namespace {

constexpr const char* kvm_device = "/dev/kvm";
constexpr std::uint64_t identity_map_address = 0xfeffc000;  // for Intel: away from all else
constexpr std::uint64_t task_state_address = 0xfeffd000;
constexpr unsigned most_cpuid_entries = 256;

Result<UniqueFd> open_kvm() {
  UniqueFd kvm(::open(kvm_device, O_RDWR | O_CLOEXEC));
  if (kvm) return kvm;
  if (errno == ENOENT || errno == ENXIO || errno == ENODEV) {
    return fail(ErrorKind::not_found,
                "no {}: this machine has no hardware virtualization, or its module is not loaded "
                "(modprobe kvm_intel or kvm_amd)",
                kvm_device);
  }
  if (errno == EACCES) {
    return fail(ErrorKind::permission, "{}: not allowed; its group (kvm) may use it", kvm_device);
  }
  return fail_errno(errno, fmt::format("cannot open {}", kvm_device));
}

struct Needed {
  int capability;
  const char* name;
};
constexpr std::array needed{
    Needed{KVM_CAP_IRQCHIP, "interrupt controllers"},
    Needed{KVM_CAP_USER_MEMORY, "user memory"},
    Needed{KVM_CAP_EXT_CPUID, "CPUID"},
    Needed{KVM_CAP_PIT2, "a timer"},
    Needed{KVM_CAP_IRQFD, "irqfd"},
    Needed{KVM_CAP_IOEVENTFD_ANY_LENGTH, "ioeventfd of any length"},
    Needed{KVM_CAP_IRQ_ROUTING, "interrupt routing"},
    Needed{KVM_CAP_IMMEDIATE_EXIT, "immediate exit"},
};

}  // namespace

Result<std::unique_ptr<KvmVm>> KvmVm::create() {
  auto kvm = open_kvm();
  if (!kvm) return std::unexpected(kvm.error());
  if (::ioctl(kvm->get(), KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
    return fail(ErrorKind::unsupported, "{} is not KVM, or of another version", kvm_device);
  }
  for (const Needed& entry : needed) {
    if (::ioctl(kvm->get(), KVM_CHECK_EXTENSION, entry.capability) <= 0) {
      return fail(ErrorKind::unsupported, "{} of this kernel lacks {}", kvm_device, entry.name);
    }
  }
  int fd = -1;
  do {
    fd = ::ioctl(kvm->get(), KVM_CREATE_VM, 0);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return fail_errno(errno, "cannot create a virtual machine");
  std::unique_ptr<KvmVm> vm(new KvmVm(std::move(*kvm), UniqueFd(fd)));

  const int most = ::ioctl(vm->kvm_.get(), KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);
  if (most > 0) vm->most_vcpus_ = static_cast<unsigned>(most);
  const int run_bytes = ::ioctl(vm->kvm_.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
  if (run_bytes < static_cast<int>(sizeof(kvm_run))) {
    return fail(ErrorKind::unsupported, "{}: no shared page for vCPUs", kvm_device);
  }
  vm->run_bytes_ = static_cast<std::size_t>(run_bytes);

  std::uint64_t identity = identity_map_address;
  kvm_pit_config timer{};
  timer.flags = KVM_PIT_SPEAKER_DUMMY;  // its port is the kernel's, too
  if (::ioctl(fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) != 0 ||
      ::ioctl(fd, KVM_SET_TSS_ADDR, task_state_address) != 0 ||
      ::ioctl(fd, KVM_CREATE_IRQCHIP, 0) != 0 || ::ioctl(fd, KVM_CREATE_PIT2, &timer) != 0) {
    return fail_errno(errno, "cannot create the virtual machine's interrupt controllers");
  }
  return vm;
}

Result<std::vector<kvm_cpuid_entry2>> KvmVm::supported_cpuid() const {
  KvmTable<kvm_cpuid_entry2> table(most_cpuid_entries);
  if (table.call(kvm_.get(), kvm_get_supported_cpuid) == 0) return table.entries();
  return fail_errno(errno, "cannot read what the processor can do");
}

Result<> KvmVm::set_memory(std::uint32_t slot, std::uint64_t guest, std::uint64_t length,
                           void* host, bool log_dirty) {
  kvm_userspace_memory_region region{};
  region.slot = slot;
  region.flags = log_dirty ? KVM_MEM_LOG_DIRTY_PAGES : 0;
  region.guest_phys_addr = guest;
  region.memory_size = length;
  region.userspace_addr = reinterpret_cast<std::uintptr_t>(host);
  if (::ioctl(vm_.get(), KVM_SET_USER_MEMORY_REGION, &region) == 0) return {};
  return fail_errno(errno, fmt::format("cannot give the guest {} bytes at {:#x}", length, guest));
}

Result<> KvmVm::take_dirty_log(std::uint32_t slot, std::span<std::uint64_t> bits) {
  kvm_dirty_log log{};
  log.slot = slot;
  log.dirty_bitmap = bits.data();
  if (::ioctl(vm_.get(), KVM_GET_DIRTY_LOG, &log) == 0) return {};
  return fail_errno(errno, "cannot read which pages the vCPUs wrote");
}

Result<KvmVcpu> KvmVm::create_vcpu(unsigned id) {
  UniqueFd fd(::ioctl(vm_.get(), KVM_CREATE_VCPU, static_cast<unsigned long>(id)));
  if (!fd) return fail_errno(errno, fmt::format("cannot create vCPU {}", id));
  // Beyond the first page, if the processor has registers that need it; an older kernel
  // hands out that page alone.
  const int extended = ::ioctl(vm_.get(), KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
  return KvmVcpu::map(
      std::move(fd), id, run_bytes_,
      std::max(static_cast<std::size_t>(std::max(extended, 0)), sizeof(KvmExtendedPage)));
}

Result<> KvmVm::connect_interrupt(int eventfd, std::uint32_t gsi) {
  kvm_irqfd request{};
  request.fd = static_cast<std::uint32_t>(eventfd);
  request.gsi = gsi;
  if (::ioctl(vm_.get(), KVM_IRQFD, &request) == 0) return {};
  return fail_errno(errno, fmt::format("cannot connect interrupt {}", gsi));
}

namespace {

Result<> set_doorbell(int vm, int eventfd, std::uint64_t address, std::uint32_t flags) {
  kvm_ioeventfd request{};
  request.addr = address;
  request.fd = eventfd;
  request.flags = flags;
  if (::ioctl(vm, KVM_IOEVENTFD, &request) == 0) return {};
  return fail_errno(errno, fmt::format("cannot connect a doorbell at {:#x}", address));
}

}  // namespace

Result<> KvmVm::connect_doorbell(int eventfd, std::uint64_t address) {
  return set_doorbell(vm_.get(), eventfd, address, 0);
}

Result<> KvmVm::disconnect_doorbell(int eventfd, std::uint64_t address) {
  return set_doorbell(vm_.get(), eventfd, address, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

Result<> KvmVm::set_routes(std::span<const kvm_irq_routing_entry> routes) {
  KvmTable<kvm_irq_routing_entry> table(routes);
  if (table.call(vm_.get(), kvm_set_routing) == 0) return {};
  return fail_errno(errno, "cannot route interrupts");
}

Result<> KvmVm::set_level(std::uint32_t gsi, bool high) {
  kvm_irq_level level{};
  level.irq = gsi;
  level.level = high ? 1 : 0;
  if (::ioctl(vm_.get(), KVM_IRQ_LINE, &level) == 0) return {};
  return fail_errno(errno, fmt::format("cannot set interrupt line {}", gsi));
}

}  // namespace tidepool::vmm
