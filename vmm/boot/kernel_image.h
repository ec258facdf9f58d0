// What kind of kernel a file is, and what a boot loader must know of it: Linux's
// bzImage, or an ELF image with a PVH entry. Pure: looks at bytes, touches nothing.
//
// Every number of the file is checked against the file's end before it is used.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"

namespace tidepool::vmm {

// Entered in 64-bit mode, at load_address + 0x200.
struct BzImage {
  std::vector<std::byte> setup_header;  // for the zero page, from its offset 0x1f1 on
  std::uint64_t load_address = 0;
  std::uint64_t needed_bytes = 0;         // from there on, until it has unpacked itself
  std::uint64_t most_initrd_address = 0;  // of its last byte
  std::uint64_t most_command_line = 0;    // bytes
  std::span<const std::byte> payload;     // in the file
};

struct ElfSegment {
  std::uint64_t address = 0;           // physical
  std::uint64_t bytes = 0;             // in memory; zeros after the content
  std::span<const std::byte> content;  // in the file
};

// Entered in 32-bit mode without paging.
struct ElfImage {
  std::uint32_t entry = 0;
  std::vector<ElfSegment> segments;
};

using KernelImage = std::variant<BzImage, ElfImage>;

// `name` is for messages. The result borrows `file`.
Result<KernelImage> parse_kernel(std::span<const std::byte> file, const std::string& name);

}  // namespace tidepool::vmm
