#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>

#include "base/progress_bar.h"
#include "base/size_text.h"

namespace tidepool {
namespace {

TEST(SizeText, ParsesWhatPeopleWrite) {
  EXPECT_EQ(parse_size("0").value(), 0U);
  EXPECT_EQ(parse_size("4096").value(), 4096U);
  EXPECT_EQ(parse_size("4096B").value(), 4096U);
  EXPECT_EQ(parse_size("1K").value(), 1024U);
  EXPECT_EQ(parse_size("512M").value(), 512U << 20);
  EXPECT_EQ(parse_size("512m").value(), 512U << 20);
  EXPECT_EQ(parse_size("10G").value(), std::uint64_t{10} << 30);
  EXPECT_EQ(parse_size("10GiB").value(), std::uint64_t{10} << 30);
  EXPECT_EQ(parse_size("1.5G").value(), std::uint64_t{3} << 29);
  EXPECT_EQ(parse_size("10 GiB").value(), std::uint64_t{10} << 30);
  EXPECT_EQ(parse_size("15E").value(), std::uint64_t{15} << 60);
  EXPECT_EQ(parse_size("18446744073709551615").value(), UINT64_MAX);
}

TEST(SizeText, RefusesNonsenseByName) {
  for (const char* text : {"", "G", "-1", "+1", " 1", "1.G", ".5G", "0x10", "1X", "1GG", "1GB",
                           "1iB", "1Gi", "ten", "1K "}) {
    const auto result = parse_size(text);
    ASSERT_FALSE(result) << text;
    EXPECT_EQ(result.error().kind, ErrorKind::invalid_argument);
    EXPECT_NE(result.error().message.find("is not a size"), std::string::npos) << text;
  }
}

TEST(SizeText, RefusesWhatDoesNotFit) {
  for (const char* text : {"16E", "18446744073709551616", "17179869184G"}) {
    const auto result = parse_size(text);
    ASSERT_FALSE(result) << text;
    EXPECT_NE(result.error().message.find("too large"), std::string::npos);
  }
}

TEST(SizeText, FormatsForReading) {
  EXPECT_EQ(format_size(0), "0 B");
  EXPECT_EQ(format_size(1023), "1023 B");
  EXPECT_EQ(format_size(1024), "1 KiB");
  EXPECT_EQ(format_size(1536), "1.5 KiB");
  EXPECT_EQ(format_size((1U << 20) - 1), "1 MiB");
  EXPECT_EQ(format_size(std::uint64_t{3} << 29), "1.5 GiB");
  EXPECT_EQ(format_size(UINT64_MAX), "16 EiB");
}

TEST(SizeText, FormatsExactlyWhatParsesBack) {
  EXPECT_EQ(format_size_exactly(0), "0 B");
  EXPECT_EQ(format_size_exactly(1025), "1025 B");
  EXPECT_EQ(format_size_exactly(std::uint64_t{40} << 30), "40 GiB");
  EXPECT_EQ(format_size_exactly(std::uint64_t{1} << 60), "1 EiB");
  for (std::uint64_t bytes :
       {std::uint64_t{1}, std::uint64_t{1536}, std::uint64_t{41203} << 20, UINT64_MAX})
    EXPECT_EQ(parse_size(format_size_exactly(bytes)).value(), bytes);
}

TEST(ProgressBar, RendersAsManyMarksAsWorkIsDone) {
  using std::chrono::seconds;
  const auto line = ProgressBar::render("check", 50, 100, seconds(30), 60);
  EXPECT_LT(line.size(), 60U);
  EXPECT_EQ(std::count(line.begin(), line.end(), '#'), std::count(line.begin(), line.end(), '.'));
  EXPECT_NE(line.find("50 %"), std::string::npos);
  EXPECT_NE(line.find("0:30 left"), std::string::npos);
  const auto over = ProgressBar::render("check", 200, 100, seconds(30), 60);
  EXPECT_EQ(std::count(over.begin(), over.end(), '.'), 0);
  EXPECT_NE(over.find("100 %"), std::string::npos);
}

TEST(ProgressBar, LeavesTheBarOutOnANarrowTerminal) {
  const auto line = ProgressBar::render("check", 1, 2, std::chrono::seconds(2), 20);
  EXPECT_EQ(line.find('['), std::string::npos);
  EXPECT_NE(line.find("50 %"), std::string::npos);
}

}  // namespace
}  // namespace tidepool
