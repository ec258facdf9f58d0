// The configuration registers of one PCI function: values, and which bits a guest may
// change. Pure.
//
// Limits: the first 256 bytes; what is beyond reads as zeros, as of a function without
// extended capabilities. One BAR of 32 bits.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace tidepool::vmm {

struct PciIdentity {
  std::uint16_t vendor = 0, device = 0;
  std::uint16_t subsystem_vendor = 0, subsystem = 0;
  std::uint8_t revision = 0;
  std::uint32_t class_code = 0;  // 24 bits
};

class ConfigSpace {
 public:
  static constexpr std::size_t bytes = 256;
  static constexpr std::uint64_t command_offset = 4, bar_offset = 0x10;

  explicit ConfigSpace(const PciIdentity& identity);

  // BAR 0: a power of two of bytes, at least 16.
  void add_bar(std::uint32_t length, std::uint32_t address);
  // Appends a capability; `content` begins after its two header bytes, `writable` are
  // the bits of it that the guest may change. Its offset.
  std::uint8_t add_capability(std::uint8_t id, std::span<const std::uint8_t> content,
                              std::span<const std::uint8_t> writable);

  void read(std::uint64_t offset, std::span<std::byte> out) const;
  void write(std::uint64_t offset, std::span<const std::byte> in);
  const std::array<std::uint8_t, bytes>& values() const { return values_; }
  // Values that such a space had before. False, and nothing changed: of another function,
  // what no guest can change is different.
  bool restore(const std::array<std::uint8_t, bytes>& values);

  bool memory_enabled() const;
  std::uint32_t bar_address() const;
  std::uint8_t byte(std::uint64_t offset) const { return values_[offset]; }
  std::uint16_t word(std::uint64_t offset) const;
  std::uint32_t dword(std::uint64_t offset) const;

 private:
  std::array<std::uint8_t, bytes> values_{}, writable_{};
  std::uint8_t next_capability_ = 0x40, last_link_ = 0x34;
};

}  // namespace tidepool::vmm
