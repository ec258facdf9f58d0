#include "vmm/pci/msix.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/log.h"

namespace tidepool::vmm {

Result<std::unique_ptr<Msix>> Msix::create(KvmVm& vm, InterruptRoutes& routes,
                                           std::uint16_t vectors) {
  std::unique_ptr<Msix> msix(new Msix(routes, vectors));
  for (Entry& entry : msix->entries_) {
    entry.raise.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!entry.raise) return fail_errno(errno, "cannot create an eventfd");
    entry.number = routes.take_number();
    auto connected = vm.connect_interrupt(entry.raise.get(), entry.number);
    if (!connected) return std::unexpected(connected.error());
  }
  return msix;
}

void Msix::raise(const Entry& entry) {
  const std::uint64_t one = 1;
  // Full is as good: the interrupt is on its way then.
  [[maybe_unused]] const auto written = ::write(entry.raise.get(), &one, sizeof one);
}

void Msix::signal(std::uint16_t vector) {
  if (vector >= entries_.size()) return;
  const std::lock_guard lock(mutex_);
  Entry& entry = entries_[vector];
  if (!enabled_ || all_masked_ || entry.masked || !entry.routed) {
    entry.pending = true;
  } else {
    raise(entry);
  }
}

// After a change: an unmasked entry gets its route, then what was pending.
void Msix::settle(Entry& entry) {
  if (!enabled_ || all_masked_ || entry.masked) return;
  if (!entry.routed) {
    if (auto set = routes_.set_message(entry.number, entry.address, entry.data); !set) {
      return log().error("{}", set.error().message);
    }
    entry.routed = true;
  }
  if (std::exchange(entry.pending, false)) raise(entry);
}

void Msix::set_control(bool enabled, bool all_masked) {
  const std::lock_guard lock(mutex_);
  enabled_ = enabled;
  all_masked_ = all_masked;
  for (Entry& entry : entries_) {
    if (!enabled) entry.pending = false;
    settle(entry);
  }
}

std::vector<VectorState> Msix::save() {
  const std::lock_guard lock(mutex_);
  std::vector<VectorState> vectors;
  for (const Entry& entry : entries_)
    vectors.push_back({entry.address, entry.data, entry.masked, entry.pending});
  return vectors;
}

void Msix::restore(std::span<const VectorState> vectors) {
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < std::min(vectors.size(), entries_.size()); ++i) {
    Entry& entry = entries_[i];
    entry.address = vectors[i].address;
    entry.data = vectors[i].data;
    entry.masked = vectors[i].masked;
    entry.pending = vectors[i].pending;
    entry.routed = false;
  }
}

void Msix::read_table(std::uint64_t offset, std::span<std::byte> out) {
  std::ranges::fill(out, std::byte{0xff});
  const std::uint64_t index = offset / entry_bytes;
  if (out.size() < 4 || offset % out.size() != 0 || index >= entries_.size()) return;
  const std::lock_guard lock(mutex_);
  const Entry& entry = entries_[index];
  const std::uint64_t halves[] = {entry.address,
                                  entry.data | std::uint64_t{entry.masked ? 1U : 0U} << 32};
  const std::uint64_t half = halves[offset % entry_bytes / 8];
  put_value(offset % 8 == 0 ? half : half >> 32, out);
}

void Msix::write_table(std::uint64_t offset, std::span<const std::byte> in) {
  const std::uint64_t index = offset / entry_bytes;
  if (in.size() < 4 || offset % in.size() != 0 || index >= entries_.size()) return;
  const std::lock_guard lock(mutex_);
  Entry& entry = entries_[index];
  for (std::size_t i = 0; i < in.size(); i += 4) {
    const auto value = static_cast<std::uint32_t>(value_of(in.subspan(i, 4)));
    switch ((offset + i) % entry_bytes) {
      case 0:
        entry.address = (entry.address & ~std::uint64_t{UINT32_MAX}) | value;
        break;
      case 4:
        entry.address = (entry.address & UINT32_MAX) | std::uint64_t{value} << 32;
        break;
      case 8:
        entry.data = value;
        break;
      default:
        entry.masked = (value & 1) != 0;
        break;
    }
    if ((offset + i) % entry_bytes < 12) entry.routed = false;
  }
  settle(entry);
}

void Msix::read_pending(std::uint64_t offset, std::span<std::byte> out) {
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < out.size(); ++i) {
    unsigned bits = 0;
    for (std::size_t bit = 0; bit < 8; ++bit) {
      const std::size_t vector = (offset + i) * 8 + bit;
      if (vector < entries_.size() && entries_[vector].pending) bits |= 1U << bit;
    }
    out[i] = static_cast<std::byte>(bits);
  }
}

}  // namespace tidepool::vmm
