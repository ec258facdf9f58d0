#include "base/text_table.h"

#include <gtest/gtest.h>

namespace tidepool {
namespace {

TEST(TextTable, AlignsColumnsWithoutTrailingBlanks) {
  TextTable table({{"NAME", TextTable::Align::left}, {"SIZE", TextTable::Align::right}, {"X"}});
  table.add({"a", "1 KiB", ""});
  table.add({"longer", "10 GiB", "y"});
  EXPECT_EQ(table.render(),
            "NAME      SIZE  X\n"
            "a        1 KiB\n"
            "longer  10 GiB  y\n");
}

TEST(TextTable, CountsCharactersNotBytes) {
  TextTable table({{"", TextTable::Align::left}, {"", TextTable::Align::left}});
  table.add({"\xc3\xa4\xc3\xb6", "|"});
  table.add({"ab", "|"});
  EXPECT_EQ(table.render(), "\xc3\xa4\xc3\xb6  |\nab  |\n");
}

TEST(TextTable, ShowsNoControlCharacter) {
  TextTable table({{"NAME"}});
  table.add({"a\x1b[2J\nb\x7f"});
  EXPECT_EQ(table.render(), "NAME\na?[2J?b?\n");
}

}  // namespace
}  // namespace tidepool
