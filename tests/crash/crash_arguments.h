// What the crash tests of chains are told.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "blockdev/chain/chain.h"

namespace tidepool::test {

struct CrashArguments {
  std::uint64_t points = 500, seed = 1;
  blockdev::chain::Sabotage sabotage;
  bool expect_red = false;
  bool own_sabotage = false;  // the one that only this test knows

  // Nothing when they make no sense, which it says. `own` names the test's own sabotage.
  static std::optional<CrashArguments> parse(int argc, char** argv, std::string_view own) {
    CrashArguments out;
    for (int i = 1; i < argc; ++i) {
      const std::string_view arg = argv[i];
      const std::string_view value = i + 1 < argc ? argv[i + 1] : "";
      if (arg == "--expect-red") {
        out.expect_red = true;
        continue;
      }
      ++i;
      if (arg == "--points" && !value.empty()) {
        out.points = std::strtoull(argv[i], nullptr, 10);
      } else if (arg == "--seed" && !value.empty()) {
        out.seed = std::strtoull(argv[i], nullptr, 10);
      } else if (arg == "--sabotage" && value == "data-barrier") {
        out.sabotage.skip_data_barrier = true;
      } else if (arg == "--sabotage" && value == "journal-barrier") {
        out.sabotage.skip_journal_barrier = true;
      } else if (arg == "--sabotage" && value == own) {
        out.own_sabotage = true;
      } else {
        std::fprintf(stderr, "%s: what is '%s'?\n", argv[0], argv[i - 1]);
        return std::nullopt;
      }
    }
    return out;
  }
};

}  // namespace tidepool::test
