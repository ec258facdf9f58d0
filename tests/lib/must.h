// The value of a result, for test programs that cannot go on without it.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <type_traits>
#include <utility>

#include "base/result.h"
#include "tests/lib/judge.h"

namespace tidepool::test {

// Ends the program at once: other threads may be at work.
template <class T>
T must(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "%s\n", result.error().message.c_str());
    ::_exit(judge::exit_failed);
  }
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

}  // namespace tidepool::test
