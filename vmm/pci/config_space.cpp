#include "vmm/pci/config_space.h"

#include <linux/pci_regs.h>

#include <algorithm>

#include "base/byte_order.h"

namespace tidepool::vmm {

ConfigSpace::ConfigSpace(const PciIdentity& identity) {
  store_le16(&values_[PCI_VENDOR_ID], identity.vendor);
  store_le16(&values_[PCI_DEVICE_ID], identity.device);
  store_le32(&values_[PCI_REVISION_ID], identity.class_code << 8 | identity.revision);
  store_le16(&values_[PCI_SUBSYSTEM_VENDOR_ID], identity.subsystem_vendor);
  store_le16(&values_[PCI_SUBSYSTEM_ID], identity.subsystem);
  constexpr std::uint16_t changeable =
      PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE;
  store_le16(&writable_[PCI_COMMAND], changeable);
  writable_[PCI_CACHE_LINE_SIZE] = 0xff;
  writable_[PCI_INTERRUPT_LINE] = 0xff;
}

void ConfigSpace::add_bar(std::uint32_t length, std::uint32_t address) {
  store_le32(&values_[bar_offset], address);
  store_le32(&writable_[bar_offset], ~(length - 1));
}

std::uint8_t ConfigSpace::add_capability(std::uint8_t id, std::span<const std::uint8_t> content,
                                         std::span<const std::uint8_t> writable) {
  const std::uint8_t at = next_capability_;
  values_[last_link_] = at;
  values_[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
  values_[at] = id;
  last_link_ = static_cast<std::uint8_t>(at + 1);
  std::ranges::copy(content, &values_[at + 2U]);
  std::ranges::copy(writable, &writable_[at + 2U]);
  next_capability_ = static_cast<std::uint8_t>((at + 2U + content.size() + 3) & ~std::size_t{3});
  return at;
}

void ConfigSpace::read(std::uint64_t offset, std::span<std::byte> out) const {
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = offset + i < bytes ? std::byte{values_[offset + i]} : std::byte{};
  }
}

void ConfigSpace::write(std::uint64_t offset, std::span<const std::byte> in) {
  for (std::size_t i = 0; i < in.size() && offset + i < bytes; ++i) {
    const std::uint8_t mask = writable_[offset + i];
    std::uint8_t& value = values_[offset + i];
    value = static_cast<std::uint8_t>((value & ~mask) | (static_cast<std::uint8_t>(in[i]) & mask));
  }
}

bool ConfigSpace::restore(const std::array<std::uint8_t, bytes>& values) {
  for (std::size_t i = 0; i < bytes; ++i) {
    if (((values[i] ^ values_[i]) & ~writable_[i]) != 0) return false;
  }
  values_ = values;
  return true;
}

bool ConfigSpace::memory_enabled() const { return (word(PCI_COMMAND) & PCI_COMMAND_MEMORY) != 0; }

std::uint32_t ConfigSpace::bar_address() const {
  return dword(bar_offset) & ~std::uint32_t{0xf};  // the low bits say what kind it is
}

std::uint16_t ConfigSpace::word(std::uint64_t offset) const { return load_le16(&values_[offset]); }

std::uint32_t ConfigSpace::dword(std::uint64_t offset) const { return load_le32(&values_[offset]); }

}  // namespace tidepool::vmm
