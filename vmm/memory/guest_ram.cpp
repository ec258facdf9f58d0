#include "vmm/memory/guest_ram.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/checked.h"
#include "base/size_text.h"
#include "vmm/memory/memory_layout.h"

namespace tidepool::vmm {

Result<std::unique_ptr<GuestRam>> GuestRam::create(KvmVm& vm, std::uint64_t bytes) {
  UniqueFd memory(::memfd_create("guest-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  // Who is given it need not fear that it gets shorter.
  if (!memory || ::ftruncate(memory.get(), static_cast<off_t>(bytes)) != 0 ||
      ::fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return fail_errno(errno, fmt::format("cannot make {} of guest memory", format_size(bytes)));
  }
  void* const host =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memory.get(), 0);
  if (host == MAP_FAILED) {
    return fail_errno(errno, fmt::format("cannot map {} of guest memory", format_size(bytes)));
  }
  std::unique_ptr<GuestRam> ram(
      new GuestRam(vm, std::move(memory), static_cast<std::byte*>(host), bytes));
  const std::uint64_t low = std::min(bytes, hole_begin);
  const int file = ram->memory_.get();
  std::vector<virtio::GuestRegion> regions{{0, low, ram->host_, file, 0}};
  if (bytes > low) regions.push_back({hole_end, bytes - low, ram->host_ + low, file, low});
  auto map = virtio::GuestMemory::create(std::move(regions));
  if (!map) return std::unexpected(map.error());
  ram->map_ = std::move(*map);
  if (auto mapped = ram->map_slots(false); !mapped) return std::unexpected(mapped.error());
  return ram;
}

GuestRam::~GuestRam() { ::munmap(host_, bytes_); }

std::uint64_t GuestRam::used() const {
  constexpr std::uint64_t block = 512;
  struct stat status {};
  if (::fstat(memory_.get(), &status) != 0) return 0;
  return static_cast<std::uint64_t>(status.st_blocks) * block;
}

Result<std::vector<virtio::GuestRegion>> GuestRam::touched() const {
  std::vector<virtio::GuestRegion> parts;
  for (const virtio::GuestRegion& region : map_->regions()) {
    const auto begin = static_cast<std::uint64_t>(region.host - host_);  // in the memfd
    const std::uint64_t end = begin + region.length;
    for (std::uint64_t at = begin; at < end;) {
      const off_t data = ::lseek(memory_.get(), static_cast<off_t>(at), SEEK_DATA);
      if (data < 0 && errno == ENXIO) break;
      const off_t hole = data < 0 ? data : ::lseek(memory_.get(), data, SEEK_HOLE);
      if (hole < 0) return fail_errno(errno, "cannot find the guest's memory that is in use");
      const std::uint64_t first = round_down(static_cast<std::uint64_t>(data), virtio::guest_page);
      const std::uint64_t last =
          std::min(round_up(static_cast<std::uint64_t>(hole), virtio::guest_page), end);
      if (first >= end) break;
      parts.push_back({region.guest + (first - begin), last - first, host_ + first});
      at = last;
    }
  }
  return parts;
}

Result<> GuestRam::map_slots(bool log_dirty) {
  std::uint32_t slot = 0;
  for (const virtio::GuestRegion& region : map_->regions()) {
    auto mapped = vm_.set_memory(slot++, region.guest, region.length, region.host, log_dirty);
    if (!mapped) return mapped;
  }
  return {};
}

class VcpuWriter final : public Writer {
 public:
  explicit VcpuWriter(GuestRam& ram) : ram_(ram) {}
  const std::string& name() const override { return name_; }
  Result<> start_tracking() override { return ram_.map_slots(true); }
  void stop_tracking() override { (void)ram_.map_slots(false); }

  Result<> harvest(DirtyPages& into) override {
    std::uint32_t slot = 0;
    for (const virtio::GuestRegion& region : ram_.map()->regions()) {
      // Regions begin at multiples of 64 pages, so that words need no shifting.
      const std::uint64_t pages = region.length / virtio::guest_page;
      std::vector<std::uint64_t> bits((pages + 63) / 64);
      if (auto taken = ram_.vm_.take_dirty_log(slot++, bits); !taken) return taken;
      const std::uint64_t first = region.guest / virtio::guest_page / 64;
      for (std::size_t i = 0; i < bits.size(); ++i) into.words()[first + i] |= bits[i];
    }
    return {};
  }

 private:
  const std::string name_ = "vCPUs";
  GuestRam& ram_;
};

std::unique_ptr<Writer> GuestRam::vcpu_writer() { return std::make_unique<VcpuWriter>(*this); }

}  // namespace tidepool::vmm
