// KVM's calls that take a number of entries: a header of eight bytes, then the entries.
//
// The kernel's own declarations of them end in flexible arrays, which in C++ have a
// size, and so give wrong call numbers: here are the right ones.
#pragma once

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace tidepool::vmm {

struct KvmTableHeader {
  std::uint32_t count = 0;
  std::uint32_t flags = 0;
};

inline constexpr unsigned long kvm_get_msr_list = _IOWR(KVMIO, 0x02, std::uint32_t);
inline constexpr unsigned long kvm_get_supported_cpuid = _IOWR(KVMIO, 0x05, KvmTableHeader);
inline constexpr unsigned long kvm_set_routing = _IOW(KVMIO, 0x6a, KvmTableHeader);
inline constexpr unsigned long kvm_get_msrs = _IOWR(KVMIO, 0x88, KvmTableHeader);
inline constexpr unsigned long kvm_set_msrs = _IOW(KVMIO, 0x89, KvmTableHeader);
inline constexpr unsigned long kvm_set_cpuid2 = _IOW(KVMIO, 0x90, KvmTableHeader);
using KvmExtendedPage = std::byte[4096];  // kvm_xsave, which ends in a flexible array, too
inline constexpr unsigned long kvm_get_xsave = _IOR(KVMIO, 0xa4, KvmExtendedPage);
inline constexpr unsigned long kvm_set_xsave = _IOW(KVMIO, 0xa5, KvmExtendedPage);
inline constexpr unsigned long kvm_get_xsave2 = _IOR(KVMIO, 0xcf, KvmExtendedPage);

template <class Entry>
class KvmTable {
 public:
  // So many, of zeros.
  explicit KvmTable(std::size_t count) : bytes_(sizeof(KvmTableHeader) + count * sizeof(Entry)) {
    set_count(count);
  }
  explicit KvmTable(std::span<const Entry> entries) : KvmTable(entries.size()) {
    if (!entries.empty())
      std::memcpy(bytes_.data() + sizeof(KvmTableHeader), entries.data(), entries.size_bytes());
  }

  int call(int fd, unsigned long request) { return ::ioctl(fd, request, bytes_.data()); }
  // After a call that may have changed how many there are.
  std::vector<Entry> entries() const {
    KvmTableHeader header;
    std::memcpy(&header, bytes_.data(), sizeof header);
    const std::size_t room = (bytes_.size() - sizeof header) / sizeof(Entry);
    std::vector<Entry> out(header.count < room ? header.count : room);
    if (!out.empty())
      std::memcpy(out.data(), bytes_.data() + sizeof header, out.size() * sizeof(Entry));
    return out;
  }

 private:
  void set_count(std::size_t count) {
    const KvmTableHeader header{static_cast<std::uint32_t>(count), 0};
    std::memcpy(bytes_.data(), &header, sizeof header);
  }
  std::vector<std::byte> bytes_;
};

}  // namespace tidepool::vmm
