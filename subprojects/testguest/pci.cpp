#include "pci.h"

#include "console.h"
#include "guest.h"

namespace {

constexpr uint16_t address_port = 0xcf8, data_port = 0xcfc;
constexpr uint32_t devices = 32;
constexpr uint8_t vendor_capability = 9;
constexpr uint32_t virtio_vendor = 0x1af4, modern_base = 0x1040;

uint32_t read_config(uint32_t slot, uint32_t offset) {
  out32(address_port, 1U << 31 | slot << 11 | (offset & ~3U));
  return in32(data_port) >> (8 * (offset & 3));
}

uint32_t bar_address(uint32_t slot, uint32_t bar) {
  const uint32_t address = read_config(slot, 0x10 + 4 * bar);
  require((address & ~15U) != 0, "a BAR has no address", bar);
  const bool wide = (address & 6) == 4;
  require(!wide || read_config(slot, 0x14 + 4 * bar) == 0, "a BAR is above 4 GiB", bar);
  return address & ~15U;
}

}  // namespace

void write_config(uint32_t slot, uint32_t offset, uint8_t value) {
  out32(address_port, 1U << 31 | slot << 11 | (offset & ~3U));
  out8(static_cast<uint16_t>(data_port + (offset & 3)), value);
}

bool find_virtio(uint32_t virtio_id, uint32_t nth, VirtioPciDevice& found) {
  for (uint32_t slot = 0; slot < devices; ++slot) {
    if (read_config(slot, 0) != ((modern_base + virtio_id) << 16 | virtio_vendor)) continue;
    if (nth-- != 0) continue;
    found.slot = slot;
    for (uint32_t link = read_config(slot, 0x34) & 0xff; link != 0;
         link = read_config(slot, link + 1) & 0xff) {
      const uint8_t id = static_cast<uint8_t>(read_config(slot, link));
      if (id != vendor_capability) continue;
      const uint8_t kind = static_cast<uint8_t>(read_config(slot, link + 3));
      if (kind < 1 || kind > 4) continue;
      const uint32_t bar = bar_address(slot, read_config(slot, link + 4) & 0xff);
      const uint32_t place = bar + read_config(slot, link + 8);
      found.bar = bar;
      if (kind == 1) found.common = place;
      if (kind == 4) found.device = place;
      if (kind == 2) {
        found.notify = place;
        found.notify_multiplier = read_config(slot, link + 16);
      }
    }
    write_config(slot, 4, 6);  // memory, bus master
    return true;
  }
  return false;
}

void enable_message(const VirtioPciDevice& device, uint32_t address, uint32_t data) {
  constexpr uint8_t msix_capability = 0x11;
  for (uint32_t link = read_config(device.slot, 0x34) & 0xff; link != 0;
       link = read_config(device.slot, link + 1) & 0xff) {
    if ((read_config(device.slot, link) & 0xff) != msix_capability) continue;
    const uint32_t place = read_config(device.slot, link + 4);
    const uint32_t entry = bar_address(device.slot, place & 7) + (place & ~7U);
    write_at<uint32_t>(entry, address);
    write_at<uint32_t>(entry + 4, 0);
    write_at<uint32_t>(entry + 8, data);
    write_at<uint32_t>(entry + 12, 0);  // not masked
    write_config(device.slot, link + 3, 0x80);
    return;
  }
  require(false, "no MSI-X");
}
