// Tables, images and buses: the parts of the machine that need no KVM.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <numeric>

#include "base/byte_order.h"
#include "vmm/boot/acpi_tables.h"
#include "vmm/boot/aml.h"
#include "vmm/boot/cpu_setup.h"
#include "vmm/boot/kernel_image.h"
#include "vmm/devices/bus.h"
#include "vmm/devices/real_time_clock.h"
#include "vmm/devices/serial_port.h"
#include "vmm/pci/config_space.h"
#include "vmm/pci/pci_bus.h"

namespace tidepool::vmm {
namespace {

// Every table that the root leads to has its name, its length and a sum of zero.
TEST(AcpiTables, AreWhole) {
  constexpr std::uint64_t at = 0xe0000;
  const auto all = acpi_tables(at, 3);
  const auto sum = [&](std::uint64_t offset, std::uint64_t length) {
    const auto from = all.begin() + static_cast<std::ptrdiff_t>(offset);
    return std::accumulate(from, from + static_cast<std::ptrdiff_t>(length), 0U) & 0xff;
  };
  ASSERT_EQ(std::memcmp(all.data(), "RSD PTR ", 8), 0);
  EXPECT_EQ(sum(0, 20), 0U);
  EXPECT_EQ(sum(0, 36), 0U);
  std::vector<std::string> names;
  const auto visit = [&](std::uint64_t address) {
    const std::uint64_t offset = address - at;
    const std::uint32_t length = load_le32(&all[offset + 4]);
    EXPECT_LE(offset + length, all.size());
    EXPECT_EQ(sum(offset, length), 0U);
    names.emplace_back(reinterpret_cast<const char*>(&all[offset]), 4);
    return offset;
  };
  const std::uint64_t xsdt = visit(load_le64(&all[24]));
  for (std::uint64_t entry = 36; entry < load_le32(&all[xsdt + 4]); entry += 8) {
    const std::uint64_t table = visit(load_le64(&all[xsdt + entry]));
    if (names.back() == "FACP") visit(load_le64(&all[table + 140]));
  }
  const std::vector<std::string> wanted{"XSDT", "FACP", "DSDT", "APIC", "MCFG"};
  EXPECT_EQ(names, wanted);
  EXPECT_LT(all.size(), 0x20000U);
}

TEST(Aml, IsAsTheStandardHasIt) {
  EXPECT_EQ(aml::eisa_id("PNP0A08"), (aml::Bytes{0x0c, 0x41, 0xd0, 0x0a, 0x08}));
  EXPECT_EQ(aml::integer(1), (aml::Bytes{1}));
  EXPECT_EQ(aml::integer(0x1234), (aml::Bytes{0x0b, 0x34, 0x12}));
  const auto long_one = aml::buffer(aml::Bytes(100));  // its length takes two bytes
  EXPECT_EQ(long_one[0], 0x11);
  EXPECT_EQ(long_one[1], 0x40 | (104 & 0xf));
  EXPECT_EQ(long_one[2], 104 >> 4);
  EXPECT_EQ(long_one.size(), 105U);
}

TEST(Bus, FindsWhoIsThere) {
  struct Memory : BusDevice {
    std::array<std::byte, 16> bytes{};
    void read(std::uint64_t offset, std::span<std::byte> out) override {
      std::memcpy(out.data(), &bytes[offset], out.size());
    }
    void write(std::uint64_t offset, std::span<const std::byte> in) override {
      std::memcpy(&bytes[offset], in.data(), in.size());
    }
  } one, two;
  Bus bus;
  ASSERT_TRUE(bus.add(0x100, 16, one));
  ASSERT_TRUE(bus.add(0x110, 16, two));
  EXPECT_FALSE(bus.add(0x10f, 2, two));
  EXPECT_FALSE(bus.add(0xff, 2, two));
  EXPECT_FALSE(bus.add(0x90, 0x100, two));
  EXPECT_FALSE(bus.add(UINT64_MAX - 3, 16, two));
  std::array<std::byte, 4> data{};
  put_value(0x12345678, data);
  bus.write(0x11c, data);
  put_value(0, data);
  bus.read(0x11c, data);
  EXPECT_EQ(value_of(data), 0x12345678U);
  bus.read(0x10e, data);  // across two
  EXPECT_EQ(value_of(data), 0xffffffffU);
  bus.remove(0x110);
  bus.read(0x11c, data);
  EXPECT_EQ(value_of(data), 0xffffffffU);
}

TEST(SerialPort, RaisesOnlyWhatIsNew) {
  std::string shown;
  unsigned raised = 0;
  SerialPort port([&](char c) { shown += c; }, [&] { ++raised; });
  const auto write = [&](std::uint64_t at, unsigned value) {
    const std::array<std::byte, 1> byte{static_cast<std::byte>(value)};
    port.write(at, byte);
  };
  const auto read = [&](std::uint64_t at) {
    std::array<std::byte, 1> byte{};
    port.read(at, byte);
    return static_cast<unsigned>(byte[0]);
  };
  write(0, 'a');
  EXPECT_EQ(shown, "a");
  EXPECT_EQ(raised, 0U);
  write(1, 3);  // both interrupts
  EXPECT_EQ(raised, 1U);
  EXPECT_EQ(read(2) & 0xf, 2U);  // the transmitter is empty; reading settles it
  EXPECT_EQ(read(2) & 0xf, 1U);
  port.type("xy");
  EXPECT_EQ(raised, 2U);
  EXPECT_EQ(read(2) & 0xf, 4U);
  EXPECT_EQ(read(5) & 1, 1U);
  EXPECT_EQ(read(0), unsigned{'x'});
  EXPECT_EQ(read(0), unsigned{'y'});
  EXPECT_EQ(read(5) & 1, 0U);
  write(4, 0x1a);  // loop, RTS, OUT2
  EXPECT_EQ(read(6) & 0xf0, 0x90U);
  write(3, 0x83);  // the divisor
  write(0, 1);
  write(1, 0);
  write(3, 3);
  EXPECT_EQ(shown, "a");
  for (int i = 0; i < 10; ++i) port.type(std::string(SerialPort::most_typed, 'z'));
}

TEST(ConfigSpace, ChangesOnlyWhatMayChange) {
  ConfigSpace config({.vendor = 0x1af4, .device = 0x1042});
  config.add_bar(0x8000, 0xc0000000);
  const auto write = [&](std::uint64_t at, std::uint32_t value) {
    std::array<std::byte, 4> data{};
    put_value(value, data);
    config.write(at, data);
  };
  write(0, 0);
  EXPECT_EQ(config.dword(0), 0x10421af4U);
  write(0x10, 0xffffffff);
  EXPECT_EQ(config.dword(0x10), 0xffff8000U);
  write(4, 0xffffffff);
  EXPECT_EQ(config.word(4), 0x406);
  EXPECT_TRUE(config.memory_enabled());
  std::array<std::byte, 4> beyond{std::byte{1}};
  config.read(0x100, beyond);
  EXPECT_EQ(value_of(beyond), 0U);
  config.write(0xfe, beyond);
}

TEST(ConfigSpace, RestoresOnlyItsOwn) {
  ConfigSpace config({.vendor = 0x1af4, .device = 0x1042});
  config.add_bar(0x8000, 0xc0000000);
  const auto before = config.values();
  config.write(0x10, std::array<std::byte, 4>{std::byte{0}, std::byte{0}, std::byte{1}});
  const auto moved = config.values();
  EXPECT_NE(moved, before);
  EXPECT_TRUE(config.restore(before));
  EXPECT_EQ(config.values(), before);
  EXPECT_TRUE(config.restore(moved));
  auto other = before;
  other[2] ^= 1;  // the device's number
  EXPECT_FALSE(config.restore(other));
  EXPECT_EQ(config.values(), moved);
}

TEST(Features, MustAllBeThere) {
  std::vector<kvm_cpuid_entry2> here(3);
  here[0].function = 1;
  here[0].ecx = 0x6;
  here[1].function = 7;
  here[1].ebx = 0x20;
  here[2].function = 0x80000001;
  EXPECT_TRUE(check_features(cpuid_of(here, 0, 4), here));
  auto shown = here;
  shown[1].ebx |= 0x100;
  auto checked = check_features(shown, here);
  ASSERT_FALSE(checked);
  EXPECT_EQ(checked.error().kind, ErrorKind::unsupported);
  EXPECT_NE(checked.error().message.find("leaf 0x7"), std::string::npos);
  EXPECT_NE(checked.error().message.find("0x100 of EBX"), std::string::npos);
  struct Bit {
    std::uint32_t function, index;
    std::uint32_t kvm_cpuid_entry2::*part;
  };
  for (const Bit& bit :
       {Bit{1, 0, &kvm_cpuid_entry2::ecx}, Bit{1, 0, &kvm_cpuid_entry2::edx},
        Bit{7, 0, &kvm_cpuid_entry2::ecx}, Bit{7, 0, &kvm_cpuid_entry2::edx},
        Bit{7, 1, &kvm_cpuid_entry2::eax}, Bit{7, 2, &kvm_cpuid_entry2::edx},
        Bit{0xd, 1, &kvm_cpuid_entry2::eax}, Bit{0x40000001, 0, &kvm_cpuid_entry2::eax},
        Bit{0x80000001, 0, &kvm_cpuid_entry2::ecx}, Bit{0x80000001, 0, &kvm_cpuid_entry2::edx},
        Bit{0x80000007, 0, &kvm_cpuid_entry2::edx}, Bit{0x80000008, 0, &kvm_cpuid_entry2::ebx}}) {
    std::vector<kvm_cpuid_entry2> one(1);
    one[0].function = bit.function;
    one[0].index = bit.index;
    const auto lacking = one;
    one[0].*bit.part = 0x40;
    EXPECT_TRUE(check_features(one, one));
    EXPECT_FALSE(check_features(one, lacking)) << bit.function << ' ' << bit.index;
  }
}

// A guest of ours is shown no virtualization: what it would keep there is not saved.
TEST(Features, LeaveVirtualizationOut) {
  std::vector<kvm_cpuid_entry2> here(2);
  here[0].function = 1;
  here[1].function = 0x80000001;
  here[0].ecx = here[1].ecx = UINT32_MAX;
  const auto shown = cpuid_of(here, 0, 1);
  EXPECT_EQ(shown[0].ecx & 1U << 5, 0U);
  EXPECT_EQ(shown[1].ecx & 1U << 2, 0U);
}

TEST(PciBus, AnswersBothWays) {
  PciBus bus;
  std::array<std::byte, 4> data{};
  bus.mapped_config().read(0, data);
  EXPECT_EQ(value_of(data), 0x0d578086U);
  put_value(0x80000000, data);
  bus.config_by_ports().write(0, data);
  bus.config_by_ports().read(4, data);
  EXPECT_EQ(value_of(data), 0x0d578086U);
  put_value(0x80010000, data);  // another bus
  bus.config_by_ports().write(0, data);
  bus.config_by_ports().read(4, data);
  EXPECT_EQ(value_of(data), 0xffffffffU);
  bus.mapped_config().read(1 << 15, data);  // nobody there
  EXPECT_EQ(value_of(data), 0xffffffffU);
  bus.mapped_config().read(2, data);  // not aligned
  EXPECT_EQ(value_of(data), 0xffffffffU);
}

TEST(KernelImage, RefusesWhatItIsNot) {
  for (const std::size_t size : {0, 1, 63, 600, 5000}) {
    const std::vector<std::byte> zeros(size);
    auto parsed = parse_kernel(zeros, "file");
    ASSERT_FALSE(parsed);
    EXPECT_EQ(parsed.error().kind, ErrorKind::invalid_argument);
  }
}

}  // namespace
}  // namespace tidepool::vmm
