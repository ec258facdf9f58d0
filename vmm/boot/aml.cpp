#include "vmm/boot/aml.h"

namespace tidepool::vmm::aml {

namespace {

constexpr std::uint8_t name_op = 0x08, word_prefix = 0x0b, dword_prefix = 0x0c, byte_prefix = 0x0a,
                       scope_op = 0x10, buffer_op = 0x11, package_op = 0x12, extended = 0x5b,
                       device_op = 0x82;

Bytes text(std::string_view string) { return Bytes(string.begin(), string.end()); }

Bytes little(std::uint64_t value, unsigned bytes) {
  Bytes out;
  for (unsigned i = 0; i < bytes; ++i) out.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
  return out;
}

// A length that counts itself, in 1 to 4 bytes.
Bytes with_length(const Bytes& content) {
  constexpr std::size_t most_in_one = 63;
  if (content.size() + 1 <= most_in_one) {
    return Bytes{static_cast<std::uint8_t>(content.size() + 1)} + content;
  }
  std::size_t more = 1;  // bytes after the first, which holds four bits
  while (content.size() + 1 + more >= std::size_t{1} << (4 + 8 * more)) ++more;
  const std::size_t length = content.size() + 1 + more;
  Bytes out{static_cast<std::uint8_t>(more << 6 | (length & 0xf))};
  return out + little(length >> 4, static_cast<unsigned>(more)) + content;
}

constexpr std::uint8_t fixed_range = 0x0c;  // both ends of a window are fixed

}  // namespace

Bytes operator+(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Bytes name(std::string_view name, const Bytes& value) {
  return Bytes{name_op} + text(name) + value;
}

Bytes integer(std::uint32_t value) {
  if (value <= 1) return {static_cast<std::uint8_t>(value)};
  if (value <= UINT8_MAX) return Bytes{byte_prefix} + little(value, 1);
  if (value <= UINT16_MAX) return Bytes{word_prefix} + little(value, 2);
  return Bytes{dword_prefix} + little(value, 4);
}

// Three letters of five bits each, four hexadecimal digits; the first byte first.
Bytes eisa_id(std::string_view id) {
  std::uint32_t value = 0;
  for (const char letter : id.substr(0, 3)) {
    value = value << 5 | static_cast<std::uint32_t>(letter - '@');
  }
  value =
      value << 16 | static_cast<std::uint32_t>(std::stoul(std::string(id.substr(3)), nullptr, 16));
  return {dword_prefix, static_cast<std::uint8_t>(value >> 24),
          static_cast<std::uint8_t>(value >> 16), static_cast<std::uint8_t>(value >> 8),
          static_cast<std::uint8_t>(value)};
}

Bytes package(const std::vector<Bytes>& elements) {
  Bytes content{static_cast<std::uint8_t>(elements.size())};
  for (const Bytes& element : elements) content = std::move(content) + element;
  return Bytes{package_op} + with_length(content);
}

Bytes buffer(const Bytes& content) {
  return Bytes{buffer_op} +
         with_length(integer(static_cast<std::uint32_t>(content.size())) + content);
}

Bytes scope(std::string_view name, const Bytes& content) {
  return Bytes{scope_op} + with_length(text(name) + content);
}

Bytes device(std::string_view name, const Bytes& content) {
  return Bytes{extended, device_op} + with_length(text(name) + content);
}

Bytes resources(const Bytes& descriptors) {
  return buffer(descriptors + Bytes{0x79, 0});  // the end; 0: no checksum
}

Bytes ports(std::uint16_t first, std::uint8_t count) {
  return Bytes{0x47, 1} + little(first, 2) + little(first, 2) + Bytes{1, count};
}

Bytes interrupt(unsigned number) { return Bytes{0x22} + little(1U << number, 2); }

Bytes fixed_memory(std::uint32_t address, std::uint32_t bytes) {
  return Bytes{0x86, 9, 0, 1} + little(address, 4) + little(bytes, 4);
}

Bytes bus_numbers(std::uint16_t first, std::uint16_t last) {
  return Bytes{0x88, 13, 0, 2, fixed_range, 0} + little(0, 2) + little(first, 2) + little(last, 2) +
         little(0, 2) + little(static_cast<std::uint64_t>(last - first + 1), 2);
}

Bytes memory_window(std::uint32_t address, std::uint32_t bytes) {
  return Bytes{0x87, 23, 0, 0, fixed_range, 1} + little(0, 4) + little(address, 4) +
         little(address + bytes - 1, 4) + little(0, 4) + little(bytes, 4);
}

}  // namespace tidepool::vmm::aml
