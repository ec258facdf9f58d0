// Puts a kernel, its initrd and its command line into a guest's memory, with the tables
// that the kernel's boot protocol wants: Linux's zero page, or PVH's start info.
//
// Blocking. All of it before the guest runs.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "base/result.h"
#include "vmm/memory/guest_ram.h"

namespace tidepool::vmm {

struct BootFiles {
  std::filesystem::path kernel;
  std::filesystem::path initrd;  // none: empty
  std::string command_line;
};

struct BootEntry {
  enum class Mode { protected_32, long_64 };
  Mode mode = Mode::long_64;
  std::uint64_t address = 0;  // of the first instruction
  std::uint64_t data = 0;     // of the protocol's table
};

// acpi: where the tables' root is. Errors name what does not fit.
Result<BootEntry> load_kernel(GuestRam& ram, const BootFiles& files, std::uint64_t acpi);

}  // namespace tidepool::vmm
