#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <limits>

#include "base/byte_order.h"
#include "base/checked.h"

namespace tidepool {
namespace {

constexpr auto u64_limit = std::numeric_limits<std::uint64_t>::max();

TEST(ByteOrder, LowByteComesFirst) {
  std::array<std::byte, 8> bytes{};
  store_le64(bytes.data(), 0x8877665544332211);
  for (std::size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(std::to_integer<unsigned>(bytes[i]), 0x11 * (i + 1));
  }
  EXPECT_EQ(load_le64(bytes.data()), 0x8877665544332211);
  EXPECT_EQ(load_le32(bytes.data() + 1), 0x55443322U);
  EXPECT_EQ(load_le16(bytes.data() + 6), 0x8877U);
}

TEST(ByteOrder, IsUsableInConstantExpressions) {
  constexpr auto bytes = [] {
    std::array<unsigned char, 7> out{};
    store_le16(out.data(), 0xfffe);
    store_le32(out.data() + 3, 0x80000001);
    return out;
  }();
  static_assert(load_le16(bytes.data()) == 0xfffe);
  static_assert(load_le32(bytes.data() + 3) == 0x80000001);
  static_assert(bytes[2] == 0);
}

TEST(Checked, SaysWhenItDoesNotFit) {
  EXPECT_EQ(checked_add(u64_limit, std::uint64_t{0}), u64_limit);
  EXPECT_FALSE(checked_add(u64_limit, std::uint64_t{1}));
  EXPECT_EQ(checked_multiply(std::uint32_t{65535}, std::uint32_t{65537}), 0xffffffffU);
  EXPECT_FALSE(checked_multiply(std::uint32_t{65536}, std::uint32_t{65536}));
  EXPECT_FALSE(checked_round_up(u64_limit, std::uint64_t{4096}));
  EXPECT_EQ(checked_round_up(std::uint64_t{4097}, std::uint64_t{4096}), 8192U);
}

TEST(Checked, RoundsToAnyUnit) {
  EXPECT_EQ(round_down(std::uint64_t{29}, std::uint64_t{10}), 20U);
  EXPECT_EQ(round_up(std::uint64_t{21}, std::uint64_t{10}), 30U);
  EXPECT_EQ(round_up(std::uint64_t{30}, std::uint64_t{10}), 30U);
  EXPECT_EQ(round_up(std::uint64_t{0}, std::uint64_t{10}), 0U);
}

TEST(Checked, PowersOfTwo) {
  EXPECT_FALSE(is_power_of_two(0U));
  EXPECT_TRUE(is_power_of_two(1U));
  EXPECT_TRUE(is_power_of_two(std::uint64_t{1} << 63));
  EXPECT_FALSE(is_power_of_two(u64_limit));
}

TEST(Checked, RangeFitsWithoutWrappingAround) {
  EXPECT_TRUE(range_fits(0, 10, 10));
  EXPECT_TRUE(range_fits(10, 0, 10));
  EXPECT_FALSE(range_fits(1, 10, 10));
  EXPECT_FALSE(range_fits(11, 0, 10));
  EXPECT_FALSE(range_fits(u64_limit, 2, 10));
  EXPECT_FALSE(range_fits(2, u64_limit, 10));
}

}  // namespace
}  // namespace tidepool
