#include "vmm/devices/bus.h"

#include <algorithm>
#include <cstring>
#include <mutex>

#include "base/checked.h"

namespace tidepool::vmm {

Result<> Bus::add(std::uint64_t address, std::uint64_t length, BusDevice& device) {
  const std::unique_lock lock(mutex_);
  const auto next = ranges_.lower_bound(address);
  const bool hits_next = next != ranges_.end() && next->first - address < length;
  const bool hits_previous =
      next != ranges_.begin() && address - std::prev(next)->first < std::prev(next)->second.length;
  if (length == 0 || hits_next || hits_previous || !checked_add(address, length)) {
    return fail(ErrorKind::busy, "no room for {} bytes at {:#x}", length, address);
  }
  ranges_[address] = {length, &device};
  return {};
}

void Bus::remove(std::uint64_t address) {
  const std::unique_lock lock(mutex_);
  ranges_.erase(address);
}

Bus::Place Bus::find(std::uint64_t address, std::size_t length) const {
  const std::shared_lock lock(mutex_);
  auto range = ranges_.upper_bound(address);
  if (range == ranges_.begin()) return {};
  --range;
  const std::uint64_t offset = address - range->first;
  if (!range_fits(offset, length, range->second.length)) return {};
  return {range->second.device, offset};
}

void Bus::read(std::uint64_t address, std::span<std::byte> out) const {
  const Place place = find(address, out.size());
  if (place.device != nullptr) return place.device->read(place.offset, out);
  std::ranges::fill(out, std::byte{0xff});
}

void Bus::write(std::uint64_t address, std::span<const std::byte> in) const {
  const Place place = find(address, in.size());
  if (place.device != nullptr) place.device->write(place.offset, in);
}

std::uint64_t value_of(std::span<const std::byte> in) {
  std::uint64_t value = 0;
  std::memcpy(&value, in.data(), std::min(in.size(), sizeof value));
  return value;
}

void put_value(std::uint64_t value, std::span<std::byte> out) {
  std::ranges::fill(out, std::byte{});
  std::memcpy(out.data(), &value, std::min(out.size(), sizeof value));
}

}  // namespace tidepool::vmm
