// The pages that a balloon's driver names, checked against the memory there is. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "virtio/guest_memory.h"

namespace tidepool::virtio {

inline constexpr std::size_t page_number_bytes = 4;

struct PageRun {
  std::uint64_t address = 0;  // in guest memory, whole pages, in one region
  std::uint64_t length = 0;   // bytes
};

// numbers: little-endian, of pages of 4 KiB, in any order; a copy that the driver cannot
// change. Each page once, neighbours as one. nullopt: one is not in memory, or is cut off.
std::optional<std::vector<PageRun>> runs_of_pages(std::span<const std::byte> numbers,
                                                  const GuestMemory& memory);
// The whole pages within a piece of guest memory; length 0: there is none.
PageRun whole_pages(std::uint64_t address, std::uint64_t length);

}  // namespace tidepool::virtio
