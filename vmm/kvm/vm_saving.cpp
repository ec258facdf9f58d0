// What a virtual machine has once, taken out of KVM and put into another one.
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>

#include "vmm/kvm/kvm_table.h"
#include "vmm/kvm/kvm_vm.h"

namespace tidepool::vmm {

namespace {

constexpr unsigned most_msrs = 2048;

// Kept for another hypervisor's guests; no guest of ours is shown them.
constexpr std::uint32_t hyper_v_first = 0x40000000, hyper_v_end = 0x40000200;

// The kernel does not list them, but has them: memory types and machine checks.
struct Run {
  std::uint32_t first, count;
};
constexpr Run unlisted[] = {{0x17a, 2}, {0x200, 16}, {0x250, 1}, {0x258, 2},
                            {0x268, 8}, {0x277, 1},  {0x2ff, 1}, {0x400, 128}};

}  // namespace

Result<std::vector<std::uint32_t>> KvmVm::msrs_to_save() const {
  // Its header is one word: that is the count, and entries are words, too.
  std::vector<std::uint32_t> list(1 + most_msrs);
  list[0] = most_msrs;
  if (::ioctl(kvm_.get(), kvm_get_msr_list, list.data()) != 0)
    return fail_errno(errno, "cannot read which registers a processor has");
  const std::uint32_t count = std::min<std::uint32_t>(list[0], most_msrs);
  std::vector<std::uint32_t> wanted(list.begin() + 1, list.begin() + 1 + count);
  std::erase_if(wanted,
                [](std::uint32_t index) { return index >= hyper_v_first && index < hyper_v_end; });
  for (const Run& run : unlisted) {
    for (std::uint32_t i = 0; i < run.count; ++i) wanted.push_back(run.first + i);
  }
  std::ranges::sort(wanted);
  const auto doubles = std::ranges::unique(wanted);
  wanted.erase(doubles.begin(), doubles.end());
  return wanted;
}

Result<> KvmVm::save(BoardState& into) const {
  for (unsigned i = 0; i < BoardState::chip_count; ++i) {
    into.chips[i].chip_id = i;
    if (::ioctl(vm_.get(), KVM_GET_IRQCHIP, &into.chips[i]) != 0)
      return fail_errno(errno, "cannot read the interrupt controllers");
  }
  if (::ioctl(vm_.get(), KVM_GET_PIT2, &into.timer) != 0)
    return fail_errno(errno, "cannot read the timer");
  kvm_clock_data clock{};
  if (::ioctl(vm_.get(), KVM_GET_CLOCK, &clock) != 0)
    return fail_errno(errno, "cannot read the virtual machine's clock");
  into.clock = clock.clock;
  return {};
}

Result<> KvmVm::set_clock(std::uint64_t nanoseconds) {
  kvm_clock_data clock{};
  clock.clock = nanoseconds;
  if (::ioctl(vm_.get(), KVM_SET_CLOCK, &clock) == 0) return {};
  return fail_errno(errno, "cannot set the virtual machine's clock");
}

Result<> KvmVm::restore_chips(const BoardState& state) {
  for (kvm_irqchip chip : state.chips) {
    if (::ioctl(vm_.get(), KVM_SET_IRQCHIP, &chip) != 0)
      return fail_errno(errno, "cannot set the interrupt controllers");
  }
  kvm_pit_state2 timer = state.timer;
  if (::ioctl(vm_.get(), KVM_SET_PIT2, &timer) == 0) return {};
  return fail_errno(errno, "cannot set the timer");
}

}  // namespace tidepool::vmm
