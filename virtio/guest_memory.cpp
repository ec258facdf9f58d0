#include "virtio/guest_memory.h"

#include <algorithm>

#include "base/checked.h"

namespace tidepool::virtio {

Result<std::shared_ptr<const GuestMemory>> GuestMemory::create(std::vector<GuestRegion> regions) {
  std::sort(regions.begin(), regions.end(),
            [](const GuestRegion& a, const GuestRegion& b) { return a.guest < b.guest; });
  std::uint64_t end = 0;
  for (const GuestRegion& region : regions) {
    const auto region_end = checked_add(region.guest, region.length);
    if (region.length == 0 || region.host == nullptr || !region_end || region.guest < end) {
      return fail(ErrorKind::invalid_argument,
                  "guest memory: the region of {} bytes at {:#x} is empty, overlaps another or "
                  "wraps around",
                  region.length, region.guest);
    }
    end = *region_end;
  }
  if (regions.empty()) return fail(ErrorKind::invalid_argument, "guest memory: no region");
  return std::shared_ptr<const GuestMemory>(new GuestMemory(std::move(regions)));
}

std::byte* GuestMemory::longest_at(std::uint64_t address, std::uint64_t& length) const {
  for (const GuestRegion& region : regions_) {
    if (address < region.guest || address - region.guest >= region.length) continue;
    const std::uint64_t offset = address - region.guest;
    length = std::min(length, region.length - offset);
    return region.host + offset;
  }
  return nullptr;
}

std::byte* GuestMemory::at(std::uint64_t address, std::uint64_t length) const {
  std::uint64_t there = length;
  std::byte* const host = longest_at(address, there);
  return length != 0 && there == length ? host : nullptr;
}

std::uint64_t GuestMemory::address_of(const std::byte* host) const {
  for (const GuestRegion& region : regions_) {
    if (host >= region.host && host < region.host + region.length) {
      return region.guest + static_cast<std::uint64_t>(host - region.host);
    }
  }
  return 0;  // never asked for: all places come from at()
}

void MemoryWriter::connect(std::shared_ptr<const GuestMemory> memory) {
  stop_tracking();
  bitmap_.reset();
  memory_ = std::move(memory);
}

void MemoryWriter::start_tracking() {
  if (!bitmap_) {
    bitmap_ = std::make_unique<DirtyBitmap>((memory_->end() + guest_page - 1) / guest_page);
  }
  std::vector<std::uint64_t> old(bitmap_->words());
  bitmap_->take(old);  // of an earlier tracking
  marks_.store(bitmap_.get(), std::memory_order_release);
}

void MemoryWriter::take_marks(std::span<std::uint64_t> into) {
  if (bitmap_) bitmap_->take(into);
}

}  // namespace tidepool::virtio
