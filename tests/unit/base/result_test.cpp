#include "base/result.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "base/scope_guard.h"

namespace tidepool {
namespace {

TEST(Result, FailCarriesKindErrnoAndMessage) {
  const Result<int> result = fail(ErrorKind::no_space, "pool '{}' is full", "p");
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().kind, ErrorKind::no_space);
  EXPECT_EQ(result.error().errno_value, ENOSPC);
  EXPECT_EQ(result.error().message, "pool 'p' is full");
}

TEST(Result, EveryKindHasAnErrno) {
  for (int kind = 0; kind <= static_cast<int>(ErrorKind::io); ++kind) {
    EXPECT_GT(default_errno(static_cast<ErrorKind>(kind)), 0);
  }
}

TEST(Result, FailErrnoKeepsTheErrnoAndFindsTheKind) {
  const Result<> missing = fail_errno(ENOENT, "cannot open 'x'");
  EXPECT_EQ(missing.error().kind, ErrorKind::not_found);
  EXPECT_EQ(missing.error().errno_value, ENOENT);
  EXPECT_EQ(missing.error().message, "cannot open 'x': No such file or directory");
  EXPECT_EQ(Result<>(fail_errno(EROFS, "w")).error().kind, ErrorKind::permission);
  EXPECT_EQ(Result<>(fail_errno(EDQUOT, "w")).error().kind, ErrorKind::no_space);
  EXPECT_EQ(Result<>(fail_errno(EIO, "w")).error().kind, ErrorKind::io);
}

TEST(Result, FailErrnoNeverCarriesZero) {
  EXPECT_EQ(Result<>(fail_errno(0, "odd")).error().errno_value, EIO);
}

TEST(ScopeGuard, RunsUnlessDismissed) {
  int runs = 0;
  {
    const ScopeGuard guard([&] { ++runs; });
  }
  EXPECT_EQ(runs, 1);
  {
    ScopeGuard guard([&] { ++runs; });
    guard.dismiss();
  }
  EXPECT_EQ(runs, 1);
}

}  // namespace
}  // namespace tidepool
