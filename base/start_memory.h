// Memory that only a program's start needed, given back when it begins what it is for: code that
// parsed options and set things up, and freed pieces of the heap.
#pragma once

#include <link.h>
#include <malloc.h>
#include <sys/mman.h>

#include <cstdint>

namespace tidepool {

// Code and constants of the program and its libraries are unmapped page by page; what is needed
// again comes from the page cache. Any thread. A breakpoint that a debugger set before is gone.
inline void give_back_start_memory() {
  ::malloc_trim(0);
  ::dl_iterate_phdr(
      [](dl_phdr_info* object, std::size_t, void*) {
        for (int i = 0; i < object->dlpi_phnum; ++i) {
          const ElfW(Phdr)& segment = object->dlpi_phdr[i];
          if (segment.p_type != PT_LOAD || (segment.p_flags & PF_W) != 0) continue;
          constexpr std::uintptr_t page = 4096;
          const std::uintptr_t at = object->dlpi_addr + segment.p_vaddr;
          const std::uintptr_t first = at / page * page;
          ::madvise(reinterpret_cast<void*>(first), at + segment.p_memsz - first, MADV_DONTNEED);
        }
        return 0;
      },
      nullptr);
}

}  // namespace tidepool
