#include "vmm/boot/acpi_tables.h"

#include <cstring>
#include <numeric>
#include <string_view>

#include "base/byte_order.h"
#include "base/checked.h"
#include "vmm/boot/aml.h"
#include "vmm/devices/power.h"
#include "vmm/devices/real_time_clock.h"
#include "vmm/devices/serial_port.h"
#include "vmm/memory/memory_layout.h"

namespace tidepool::vmm {

namespace {

using aml::Bytes;
using aml::operator+;

constexpr std::size_t header_bytes = 36, checksum_offset = 9;
constexpr std::size_t rsdp_bytes = 36, facs_bytes = 64, fadt_bytes = 276;
constexpr std::uint64_t table_alignment = 64;  // what the FACS needs
constexpr std::uint8_t system_io = 1;

void put_text(Bytes& table, std::size_t offset, std::string_view text) {
  std::memcpy(&table[offset], text.data(), text.size());
}

void set_checksum(Bytes& table, std::size_t offset, std::size_t length) {
  table[offset] = 0;
  const unsigned sum =
      std::accumulate(table.begin(), table.begin() + static_cast<std::ptrdiff_t>(length), 0U);
  table[offset] = static_cast<std::uint8_t>(0U - sum);
}

Bytes finished(std::string_view signature, std::uint8_t revision, Bytes table) {
  put_text(table, 0, signature);
  store_le32(&table[4], static_cast<std::uint32_t>(table.size()));
  table[8] = revision;
  put_text(table, 10, "TIDEPLTIDEPOOL");
  store_le32(&table[24], 1U);
  put_text(table, 28, "TIDE");
  store_le32(&table[32], 1U);
  set_checksum(table, checksum_offset, table.size());
  return table;
}

Bytes dsdt() {
  using namespace aml;
  const auto id = [](std::string_view text, std::uint32_t number) {
    return name("_HID", eisa_id(text)) + name("_UID", integer(number));
  };
  const Bytes bridge =
      id("PNP0A08", 0) + name("_CID", eisa_id("PNP0A03")) + name("_SEG", integer(0)) +
      name("_BBN", integer(0)) +
      name("_CRS", resources(bus_numbers(0, 0) +
                             memory_window(static_cast<std::uint32_t>(pci_window),
                                           static_cast<std::uint32_t>(pci_window_bytes))));
  // Where the PCI configuration is mapped must be the board's own.
  const Bytes board = id("PNP0C02", 1) +
                      name("_CRS", resources(fixed_memory(static_cast<std::uint32_t>(ecam_address),
                                                          static_cast<std::uint32_t>(ecam_bytes))));
  const Bytes serial =
      id("PNP0501", 1) +
      name("_CRS", resources(ports(serial_port, SerialPort::ports) + interrupt(serial_interrupt)));
  const Bytes clock =
      id("PNP0B00", 1) + name("_CRS", resources(ports(rtc_port, RealTimeClock::ports)));
  const Bytes content =
      scope("\\_SB_", device("PCI0", bridge) + device("MBRD", board) + device("COM1", serial) +
                          device("RTC0", clock)) +
      name("\\_S5_", package({integer(PowerRegisters::off_type), integer(PowerRegisters::off_type),
                              integer(0), integer(0)}));
  return finished("DSDT", 2, Bytes(header_bytes) + content);
}

void put_register(Bytes& table, std::size_t offset, std::uint16_t port, std::uint8_t bytes) {
  table[offset] = system_io;
  table[offset + 1] = static_cast<std::uint8_t>(8 * bytes);
  table[offset + 3] = bytes == 4 ? 3 : bytes;  // the size of an access: 1, 2, 3 for 1, 2, 4 bytes
  store_le64(&table[offset + 4], std::uint64_t{port});
}

Bytes fadt(std::uint64_t facs, std::uint64_t dsdt_address) {
  constexpr std::uint32_t wbinvd_works = 1U << 0, c1_works = 1U << 2, no_sleep_button = 1U << 5,
                          timer_of_32_bits = 1U << 8, reset_works = 1U << 10;
  constexpr std::uint16_t has_serial = 1U << 0, no_vga = 1U << 2;
  constexpr std::uint16_t no_c2 = 0xfff, no_c3 = 0xfff;
  constexpr std::uint16_t event_port = power_port + PowerRegisters::event_offset,
                          control_port = power_port + PowerRegisters::control_offset,
                          timer_port = power_port + PowerRegisters::timer_offset;
  Bytes table(fadt_bytes);
  store_le32(&table[36], static_cast<std::uint32_t>(facs));
  store_le32(&table[40], static_cast<std::uint32_t>(dsdt_address));
  store_le16(&table[46], static_cast<std::uint16_t>(power_interrupt));
  store_le32(&table[56], std::uint32_t{event_port});
  store_le32(&table[64], std::uint32_t{control_port});
  store_le32(&table[76], std::uint32_t{timer_port});
  table[88] = 4;  // bytes of each
  table[89] = 2;
  table[91] = 4;
  store_le16(&table[96], no_c2);
  store_le16(&table[98], no_c3);
  table[108] = 0x32;  // the clock's register of the century
  store_le16(&table[109], static_cast<std::uint16_t>(has_serial | no_vga));
  store_le32(&table[112],
             wbinvd_works | c1_works | no_sleep_button | timer_of_32_bits | reset_works);
  put_register(table, 116, reset_port, 1);
  table[128] = reset_value;
  store_le64(&table[140], dsdt_address);
  put_register(table, 148, event_port, 4);
  put_register(table, 172, control_port, 2);
  put_register(table, 208, timer_port, 4);
  return finished("FACP", 6, std::move(table));
}

Bytes madt(unsigned cpus) {
  Bytes table(header_bytes + 8);
  store_le32(&table[36], static_cast<std::uint32_t>(local_apic_address));
  store_le32(&table[40], 1U);  // two PICs are there, too
  for (unsigned cpu = 0; cpu < cpus; ++cpu) {
    const auto id = static_cast<std::uint8_t>(cpu);
    table = std::move(table) + Bytes{0, 8, id, id, 1, 0, 0, 0};
  }
  Bytes io_apic{1, 12, 0, 0};
  io_apic.resize(12);
  store_le32(&io_apic[4], static_cast<std::uint32_t>(io_apic_address));
  const Bytes timer{2, 10, 0, 0, 2, 0, 0, 0, 0, 0};  // interrupt 0 comes by pin 2
  constexpr std::uint8_t level_high = 0x0d;
  constexpr auto power = static_cast<std::uint8_t>(power_interrupt);
  const Bytes button{2, 10, 0, power, power, 0, 0, 0, level_high, 0};
  const Bytes nmi{4, 6, 0xff, 0, 0, 1};
  return finished("APIC", 5, std::move(table) + io_apic + timer + button + nmi);
}

Bytes mcfg() {
  Bytes table(header_bytes + 8 + 16);
  store_le64(&table[44], ecam_address);  // segment 0, buses 0 to 0
  return finished("MCFG", 1, std::move(table));
}

}  // namespace

std::vector<std::uint8_t> acpi_tables(std::uint64_t address, unsigned cpus) {
  Bytes all(rsdp_bytes);
  const auto append = [&](const Bytes& table) {
    all.resize(round_up<std::uint64_t>(all.size(), table_alignment));
    const std::uint64_t at = address + all.size();
    all = std::move(all) + table;
    return at;
  };
  Bytes facs(facs_bytes);
  put_text(facs, 0, "FACS");
  store_le32(&facs[4], static_cast<std::uint32_t>(facs_bytes));
  facs[32] = 2;
  const std::uint64_t facs_at = append(facs), dsdt_at = append(dsdt());
  const std::uint64_t roots[] = {append(fadt(facs_at, dsdt_at)), append(madt(cpus)),
                                 append(mcfg())};
  Bytes xsdt(header_bytes + sizeof roots);
  for (std::size_t i = 0; i < std::size(roots); ++i) {
    store_le64(&xsdt[header_bytes + i * 8], roots[i]);
  }
  const std::uint64_t xsdt_at = append(finished("XSDT", 1, std::move(xsdt)));

  put_text(all, 0, "RSD PTR ");
  put_text(all, 9, "TIDEPL");
  all[15] = 2;  // revision
  store_le32(&all[20], static_cast<std::uint32_t>(rsdp_bytes));
  store_le64(&all[24], xsdt_at);
  set_checksum(all, 8, 20);  // of its first version, then of all
  set_checksum(all, 32, rsdp_bytes);
  return all;
}

}  // namespace tidepool::vmm
