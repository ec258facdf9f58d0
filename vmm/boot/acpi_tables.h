// The ACPI tables of a guest: RSDP, XSDT, FADT, FACS, MADT, MCFG, DSDT. Enough for the
// processors, PCI, the serial port, the clock, power-off, the power button and reset.
//
// Pure: gives the bytes for a place.
#pragma once

#include <cstdint>
#include <vector>

namespace tidepool::vmm {

// What is to be at `address`; the RSDP is its first byte.
std::vector<std::uint8_t> acpi_tables(std::uint64_t address, unsigned cpus);

}  // namespace tidepool::vmm
