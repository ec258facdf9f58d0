// ACPI Machine Language, the few words of it that the tables need. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tidepool::vmm::aml {

using Bytes = std::vector<std::uint8_t>;

Bytes operator+(Bytes a, const Bytes& b);

// name: four characters, or a path with '\' or '.'-less segments as written in the table.
Bytes name(std::string_view name, const Bytes& value);
Bytes integer(std::uint32_t value);
Bytes eisa_id(std::string_view text);  // "PNP0A08"
Bytes package(const std::vector<Bytes>& elements);
Bytes buffer(const Bytes& content);
Bytes scope(std::string_view name, const Bytes& content);
Bytes device(std::string_view name, const Bytes& content);

// Resource descriptors, each a part of resources().
Bytes resources(const Bytes& descriptors);  // a buffer, with its end tag
Bytes ports(std::uint16_t first, std::uint8_t count);
Bytes interrupt(unsigned number);
Bytes fixed_memory(std::uint32_t address, std::uint32_t bytes);
Bytes bus_numbers(std::uint16_t first, std::uint16_t last);
Bytes memory_window(std::uint32_t address, std::uint32_t bytes);

}  // namespace tidepool::vmm::aml
