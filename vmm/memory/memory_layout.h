// Where things are in a guest's physical address space.
#pragma once

#include <cstdint>

namespace tidepool::vmm {

inline constexpr std::uint64_t kib = 1024, mib = 1024 * kib, gib = 1024 * mib;

// RAM: from 0 to the hole below 4 GiB at most, the rest from 4 GiB on.
inline constexpr std::uint64_t hole_begin = 3 * gib;
inline constexpr std::uint64_t hole_end = 4 * gib;

// What the boot loader leaves below 1 MiB; the guest reuses it, but for the tables.
inline constexpr std::uint64_t descriptor_table_address = 0x1000;  // GDT
inline constexpr std::uint64_t boot_data_address = 0x7000;         // zero page, or PVH start
inline constexpr std::uint64_t page_tables_address = 0x9000;       // six pages
inline constexpr std::uint64_t command_line_address = 0x20000;
inline constexpr std::uint64_t low_memory_end = 0x9fc00;
inline constexpr std::uint64_t acpi_address = 0xe0000;  // to 1 MiB, reserved
inline constexpr std::uint64_t high_memory = 1 * mib;

// In the hole.
inline constexpr std::uint64_t pci_window = hole_begin;  // for BARs
inline constexpr std::uint64_t pci_window_bytes = 512 * mib;
inline constexpr std::uint64_t ecam_address = 0xe0000000;
inline constexpr std::uint64_t ecam_bytes = 1 * mib;  // one bus
inline constexpr std::uint64_t io_apic_address = 0xfec00000;
inline constexpr std::uint64_t local_apic_address = 0xfee00000;

// Ports.
inline constexpr std::uint16_t serial_port = 0x3f8;
inline constexpr std::uint16_t rtc_port = 0x70;
inline constexpr std::uint16_t reset_port = 0x64;
inline constexpr std::uint8_t reset_value = 0xfe;
inline constexpr std::uint16_t power_port = 0x600;  // PM1 event, PM1 control, timer

// Interrupts of the I/O APIC.
inline constexpr std::uint32_t serial_interrupt = 4;
inline constexpr std::uint32_t power_interrupt = 9;

}  // namespace tidepool::vmm
