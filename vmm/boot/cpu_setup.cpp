#include "vmm/boot/cpu_setup.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/byte_order.h"
#include "vmm/memory/memory_layout.h"

namespace tidepool::vmm {

namespace {

constexpr std::uint64_t cr0_protected = 1, cr0_extension = 0x10,
                        cr0_paging = std::uint64_t{1} << 31;
constexpr std::uint64_t cr4_physical_extension = 0x20;
constexpr std::uint64_t efer_long_enabled = 0x100, efer_long_active = 0x400;
constexpr std::uint64_t page_present = 1, page_writable = 2, page_large = 0x80;
constexpr std::uint64_t flags_reserved = 2;
constexpr std::uint64_t mtrr_default_register = 0x2ff, mtrr_write_back = 0x800 | 6;

constexpr std::uint16_t code_selector = 0x10, data_selector = 0x18, task_selector = 0x20;

kvm_segment segment(std::uint16_t selector, std::uint8_t type, bool code_64) {
  kvm_segment s{};
  s.limit = UINT32_MAX;
  s.selector = selector;
  s.type = type;
  s.present = 1;
  s.s = 1;
  s.g = 1;
  s.l = code_64 ? 1 : 0;
  s.db = code_64 ? 0 : 1;
  return s;
}

std::uint64_t descriptor(const kvm_segment& s) {
  const std::uint64_t limit = s.g != 0 ? s.limit >> 12 : s.limit;
  const auto field = [](std::uint64_t value, unsigned shift) { return value << shift; };
  return field(s.base & 0xff000000, 32) | field(s.base & 0xffffff, 16) | (limit & 0xffff) |
         field(limit >> 16 & 0xf, 48) | field(s.type, 40) | field(s.s, 44) | field(s.dpl, 45) |
         field(s.present, 47) | field(s.l, 53) | field(s.db, 54) | field(s.g, 55);
}

// The first 4 GiB, each address to itself.
void write_page_tables(GuestRam& ram) {
  constexpr std::uint64_t page = 4096, entries = 512, directories = 4;
  const auto put = [&](std::uint64_t table, std::uint64_t index, std::uint64_t value) {
    store_le64(ram.at(table + index * 8, 8), value);
  };
  const std::uint64_t top = page_tables_address, pointers = top + page, first = pointers + page;
  put(top, 0, pointers | page_present | page_writable);
  for (std::uint64_t i = 0; i < directories; ++i) {
    put(pointers, i, (first + i * page) | page_present | page_writable);
    for (std::uint64_t j = 0; j < entries; ++j) {
      put(first + i * page, j, (i * gib + j * 2 * mib) | page_present | page_writable | page_large);
    }
  }
}

}  // namespace

std::vector<kvm_cpuid_entry2> cpuid_of(std::vector<kvm_cpuid_entry2> entries, unsigned cpu,
                                       unsigned cpus) {
  const unsigned core_bits = std::bit_width(cpus - 1);
  for (kvm_cpuid_entry2& e : entries) {
    switch (e.function) {
      case 1: {
        constexpr std::uint32_t many_threads = 1U << 28;  // EDX
        constexpr std::uint32_t deadline_timer = 1U << 24, hypervisor = 1U << 31,
                                intel_virtualization = 1U << 5;  // ECX
        e.ebx = (e.ebx & 0xffff) | cpus << 16 | cpu << 24;
        e.ecx = (e.ecx & ~intel_virtualization) | deadline_timer | hypervisor;
        e.edx = cpus > 1 ? e.edx | many_threads : e.edx & ~many_threads;
        break;
      }
      case 4:  // caches: no core shares one with another
        e.eax = (e.eax & 0x3fff) | (cpus - 1) << 26;
        break;
      case 0xb:
      case 0x1f: {
        constexpr std::uint32_t thread_level = 1, core_level = 2;
        e.edx = cpu;
        e.eax = e.index == 0 ? 0 : core_bits;
        e.ebx = e.index == 0 ? 1 : cpus;
        e.ecx = e.index | (e.index == 0 ? thread_level : core_level) << 8;
        if (e.index > 1) e.eax = e.ebx = 0, e.ecx = e.index;
        break;
      }
      case 0x80000001: {
        constexpr std::uint32_t topology_leaf = 1U << 22, amd_virtualization = 1U << 2;  // ECX
        e.ecx &= ~(topology_leaf | amd_virtualization);
        break;
      }
      case 0x80000008:
        e.ecx = core_bits << 12 | (cpus - 1);
        break;
      default:
        break;
    }
  }
  return entries;
}

Result<> check_features(std::span<const kvm_cpuid_entry2> shown,
                        std::span<const kvm_cpuid_entry2> supported) {
  // Leaves that are sets of features.
  struct Leaf {
    std::uint32_t function, index;
    std::uint32_t eax, ebx, ecx, edx;  // which bits count
  };
  constexpr std::uint32_t all = UINT32_MAX, shown_always = 1U << 24 | 1U << 31,
                          many_threads = 1U << 28;
  constexpr Leaf leaves[] = {{1, 0, 0, 0, all & ~shown_always, all & ~many_threads},
                             {7, 0, 0, all, all, all},
                             {7, 1, all, 0, 0, 0},
                             {7, 2, 0, 0, 0, all},
                             {0xd, 1, all, 0, 0, 0},
                             {0x40000001, 0, all, 0, 0, 0},
                             {0x80000001, 0, 0, 0, all, all},
                             {0x80000007, 0, 0, 0, 0, all},
                             {0x80000008, 0, 0, all, 0, 0}};
  const auto find = [](std::span<const kvm_cpuid_entry2> entries, const Leaf& leaf) {
    const auto found = std::ranges::find_if(entries, [&](const kvm_cpuid_entry2& entry) {
      return entry.function == leaf.function && entry.index == leaf.index;
    });
    return found == entries.end() ? kvm_cpuid_entry2{} : *found;
  };
  for (const Leaf& leaf : leaves) {
    const kvm_cpuid_entry2 had = find(shown, leaf), has = find(supported, leaf);
    const std::uint32_t eax = had.eax & ~has.eax & leaf.eax, ebx = had.ebx & ~has.ebx & leaf.ebx,
                        ecx = had.ecx & ~has.ecx & leaf.ecx, edx = had.edx & ~has.edx & leaf.edx;
    if ((eax | ebx | ecx | edx) == 0) continue;
    return fail(ErrorKind::unsupported,
                "this processor lacks what the guest uses: leaf {:#x} of CPUID, bits {:#x} of EAX, "
                "{:#x} of EBX, {:#x} of ECX, {:#x} of EDX",
                leaf.function, eax, ebx, ecx, edx);
  }
  return {};
}

Result<> set_up_boot_vcpu(KvmVcpu& vcpu, GuestRam& ram, const BootEntry& entry) {
  const bool long_mode = entry.mode == BootEntry::Mode::long_64;
  auto system = vcpu.system_registers();
  if (!system) return std::unexpected(system.error());
  constexpr std::uint8_t code = 11, data = 3, task_busy = 11;  // types, accessed
  const kvm_segment code_segment = segment(code_selector, code, long_mode);
  const kvm_segment data_segment = segment(data_selector, data, false);
  kvm_segment task = segment(task_selector, task_busy, false);
  task.s = task.g = task.db = 0;
  task.limit = 0x67;
  system->cs = code_segment;
  system->ds = system->es = system->fs = system->gs = system->ss = data_segment;
  system->tr = task;

  const std::uint64_t table[] = {0, 0, descriptor(code_segment), descriptor(data_segment),
                                 descriptor(task)};
  std::memcpy(ram.at(descriptor_table_address, sizeof table), table, sizeof table);
  system->gdt.base = descriptor_table_address;
  system->gdt.limit = sizeof table - 1;
  system->cr0 = cr0_protected | cr0_extension;
  if (long_mode) {
    write_page_tables(ram);
    system->cr0 |= cr0_paging;
    system->cr3 = page_tables_address;
    system->cr4 = cr4_physical_extension;
    system->efer = efer_long_enabled | efer_long_active;
  }
  if (auto done = vcpu.set_system_registers(*system); !done) return done;

  kvm_regs registers{};
  registers.rflags = flags_reserved;
  registers.rip = entry.address;
  // The protocols differ in where they want their table's address.
  (long_mode ? registers.rsi : registers.rbx) = entry.data;
  if (auto done = vcpu.set_registers(registers); !done) return done;
  return vcpu.set_msr(mtrr_default_register, mtrr_write_back);
}

}  // namespace tidepool::vmm
