// A target without libFuzzer: for some seconds, mutations of the seeds. It does not
// learn from coverage; it keeps the targets compiling and finds what lies near.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>
#include <string>

#include "tests/fuzz/target.h"

namespace {

using tidepool::test::Input;

class Mutator {
 public:
  explicit Mutator(std::uint64_t seed) : random_(seed), seeds_(tidepool::test::seeds()) {}

  Input next() {
    Input input = any_seed();
    for (std::uint64_t left = below(8); left > 0; --left) mutate(input);
    return input;
  }
  const std::vector<Input>& seeds() const { return seeds_; }

 private:
  std::uint64_t below(std::uint64_t limit) { return limit == 0 ? 0 : random_() % limit; }
  const Input& any_seed() { return seeds_[below(seeds_.size())]; }
  static auto at(Input& input, std::uint64_t index) {
    return input.begin() + static_cast<std::ptrdiff_t>(index);
  }

  void mutate(Input& input) {
    if (input.empty()) return input.push_back(static_cast<std::byte>(random_()));
    std::uint64_t begin = below(input.size());
    std::uint64_t length = 1 + below(std::min<std::uint64_t>(input.size() - begin, 32));
    switch (below(7)) {
      case 0:
        input[begin] ^= std::byte{1} << below(8);
        break;
      case 1:  // a number at its limits, of any width
        for (std::uint64_t i = 0, width = std::uint64_t{1} << below(4); i < width; ++i) {
          constexpr int edges[] = {0, 1, 0x7f, 0x80, 0xff};
          if (begin + i < input.size()) input[begin + i] = static_cast<std::byte>(edges[below(5)]);
        }
        break;
      case 2:
        input.erase(at(input, begin), at(input, begin + length));
        break;
      case 3: {
        Input copy(at(input, begin), at(input, begin + length));
        input.insert(at(input, below(input.size())), copy.begin(), copy.end());
        break;
      }
      case 4:
        for (std::uint64_t i = 0; i < length; ++i)
          input[begin + i] = static_cast<std::byte>(random_());
        break;
      case 5:
        input.resize(begin);
        break;
      default: {  // the end of another seed
        const Input& other = any_seed();
        std::uint64_t from = below(other.size());
        input.resize(begin);
        input.insert(input.end(), other.begin() + static_cast<std::ptrdiff_t>(from), other.end());
      }
    }
  }

  std::mt19937_64 random_;
  std::vector<Input> seeds_;
};

}  // namespace

int main(int argc, char** argv) {
  std::uint64_t seconds = 3, seed = 1;
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string arg = argv[i];
    if (arg == "--seconds")
      seconds = std::stoull(argv[i + 1]);
    else if (arg == "--seed")
      seed = std::stoull(argv[i + 1]);
    else
      return std::fprintf(stderr, "usage: %s [--seconds N] [--seed S]\n", argv[0]), 2;
  }
  Mutator mutator(seed);
  for (const Input& input : mutator.seeds()) tidepool::test::run_one(input);
  auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  std::uint64_t runs = 0;
  while (std::chrono::steady_clock::now() < end) {
    for (int i = 0; i < 16; ++i, ++runs) tidepool::test::run_one(mutator.next());
  }
  std::printf("seed %llu: %llu inputs\n", static_cast<unsigned long long>(seed),
              static_cast<unsigned long long>(runs));
  return 0;
}
