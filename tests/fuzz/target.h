// What a fuzz target is: inputs that make sense, and what is done with any input.
//
// A target links either libFuzzer (libfuzzer_main.cpp) or, with compilers that lack
// it, a driver that mutates the seeds blindly (mutation_main.cpp).
#pragma once

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <vector>

namespace tidepool::test {

using Input = std::vector<std::byte>;

// Made by the encoders, so that they are current.
std::vector<Input> seeds();
// Returns, whatever the input; a defect aborts.
void run_one(std::span<const std::byte> input);

inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

}  // namespace tidepool::test
