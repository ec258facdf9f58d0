// What the test programs that judge a mount share: options, a seeded random
// source, file descriptors, and a way to stop with a message.
//
// Header-only and independent of the project's own code, so that a defect there
// cannot hide itself here.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace judge {

inline constexpr int exit_failed = 1, exit_usage = 2, exit_no_space = 3, exit_gone = 4;

template <class... Args>
[[noreturn]] void die(const char* format, Args... args) {
  std::fflush(stdout);
  if constexpr (sizeof...(Args) == 0)
    std::fputs(format, stderr);
  else
    std::fprintf(stderr, format, args...);
  std::fputc('\n', stderr);
  std::exit(exit_failed);
}

// splitmix64: small, fast, and the same everywhere for one seed.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  std::uint64_t below(std::uint64_t limit) { return limit == 0 ? 0 : next() % limit; }
  bool chance(unsigned one_in) { return below(one_in) == 0; }
  // 1 .. limit, each power of two as likely as the next: many small, some large.
  std::uint64_t size_up_to(std::uint64_t limit) {
    unsigned bits = 0;
    while ((limit >> bits) > 1) bits++;
    const std::uint64_t top = std::uint64_t{1} << below(bits + 1);
    const std::uint64_t size = top + below(top);
    return size > limit ? limit : size;
  }

 private:
  std::uint64_t state_;
};

inline void fill_random(Random& random, unsigned char* data, std::size_t size) {
  std::size_t i = 0;
  for (; i + 8 <= size; i += 8) {
    const std::uint64_t word = random.next();
    std::memcpy(data + i, &word, 8);
  }
  for (; i < size; i++) data[i] = static_cast<unsigned char>(random.next() | 1);
}

class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~Fd() { reset(); }
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  void reset(int fd = -1) {
    if (fd_ >= 0) close(fd_);
    fd_ = fd;
  }

 private:
  int fd_;
};

struct FreeMemory {
  void operator()(void* memory) const { std::free(memory); }
};
using Aligned = std::unique_ptr<unsigned char[], FreeMemory>;

inline Aligned aligned_buffer(std::size_t size) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 4096, size) != 0) die("out of memory");
  std::memset(memory, 0, size);
  return Aligned(static_cast<unsigned char*>(memory));
}

// "12", "64K", "10G"; stops the program on anything else.
inline std::uint64_t parse_size(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view suffix(end, text.data() + text.size() - end);
  if (error != std::errc{} || suffix.size() > 1) die("not a size: '%s'", std::string(text).c_str());
  if (suffix.empty()) return value;
  const auto power = std::string_view("KMGT").find(suffix[0]);
  if (power == std::string_view::npos) die("not a size: '%s'", std::string(text).c_str());
  return value << (10 * (power + 1));
}

// `--name value`, `--flag` (names listed as flags) and positional words.
class Options {
 public:
  Options(int argc, char** argv, std::vector<std::string> known, std::vector<std::string> flags,
          std::string usage)
      : usage_(std::move(usage)) {
    for (int i = 1; i < argc; i++) {
      const std::string word = argv[i];
      if (word == "--help") {
        std::printf("%s\n", usage_.c_str());
        std::exit(0);
      }
      if (!word.starts_with("--")) {
        words.push_back(word);
      } else if (contains(flags, word.substr(2))) {
        values_[word.substr(2)] = "1";
      } else if (contains(known, word.substr(2)) && i + 1 < argc) {
        values_[word.substr(2)] = argv[++i];
      } else {
        usage_error(("unknown option or missing value: " + word).c_str());
      }
    }
  }
  bool has(const std::string& name) const { return values_.contains(name); }
  std::string text(const std::string& name, const std::string& otherwise = "") const {
    const auto found = values_.find(name);
    return found == values_.end() ? otherwise : found->second;
  }
  std::uint64_t number(const std::string& name, std::uint64_t otherwise) const {
    return has(name) ? parse_size(text(name)) : otherwise;
  }
  [[noreturn]] void usage_error(const char* what) const {
    std::fprintf(stderr, "%s\n%s\n", what, usage_.c_str());
    std::exit(exit_usage);
  }
  std::vector<std::string> words;

 private:
  static bool contains(const std::vector<std::string>& list, const std::string& word) {
    for (const auto& entry : list)
      if (entry == word) return true;
    return false;
  }
  std::map<std::string, std::string> values_;
  std::string usage_;
};

// The seed of a run: given, or taken from the clock and printed to be replayed.
inline std::uint64_t seed_of(const Options& options) {
  std::uint64_t seed = options.number("seed", 0);
  if (seed == 0) {
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    seed = (static_cast<std::uint64_t>(now.tv_sec) * 1000000000u + now.tv_nsec) % 1000000007u + 1;
  }
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  std::fflush(stdout);
  return seed;
}

}  // namespace judge
