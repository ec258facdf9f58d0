// What a guest counts while it is saved and restored, and the judge of it.
//
// guest_counter run THREADS: each thread steps two generators, one in registers and one
// in memory, and prints twice a second how far it is. Its own memory it checks itself:
// every cell must be what so many steps make of its beginning.
//
// guest_counter check THREADS <PRINTED: each printed value must be what that many steps
// make; steps and clock only go up; each thread is there. A step that was lost or done
// twice, or a register or page of another moment, leaves another value.
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr std::uint64_t multiplier = 6364136223846793005, increment = 1442695040888963407;
constexpr std::size_t cells = 4096;

constexpr std::uint64_t step(std::uint64_t value) { return value * multiplier + increment; }

// What `count` steps make of it, in as many rounds as `count` has bits.
constexpr std::uint64_t steps(std::uint64_t value, std::uint64_t count) {
  std::uint64_t times = multiplier, plus = increment;
  for (; count != 0; count >>= 1) {
    if ((count & 1) != 0) value = value * times + plus;
    plus *= times + 1;
    times *= times;
  }
  return value;
}
static_assert(steps(7, 3) == step(step(step(7))));

std::uint64_t milliseconds(clockid_t clock) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return static_cast<std::uint64_t>(time.tv_sec) * 1000 +
         static_cast<std::uint64_t>(time.tv_nsec) / 1'000'000;
}

void print(const std::string& line) {
  [[maybe_unused]] const auto written = ::write(STDOUT_FILENO, line.data(), line.size());
}

[[noreturn]] void count(unsigned thread) {
  constexpr std::uint64_t pause = 500;  // milliseconds
  const auto memory = std::make_unique<std::array<std::uint64_t, cells>>();
  for (std::size_t i = 0; i < cells; ++i) (*memory)[i] = i;
  std::uint64_t value = thread, passes = 0, printed = milliseconds(CLOCK_MONOTONIC);
  for (;;) {
    for (std::uint64_t& cell : *memory) {
      value = step(value);
      cell = step(cell);
    }
    ++passes;
    const std::uint64_t now = milliseconds(CLOCK_MONOTONIC);
    if (now - printed < pause) continue;
    printed = now;
    for (std::size_t i = 0; i < cells; ++i) {
      if ((*memory)[i] == steps(i, passes)) continue;
      print("counter: thread " + std::to_string(thread) + ": its memory is not what it wrote\n");
      std::exit(1);
    }
    print("count " + std::to_string(thread) + " " + std::to_string(passes * cells) + " " +
          std::to_string(value) + " " + std::to_string(now) + " " +
          std::to_string(milliseconds(CLOCK_REALTIME)) + "\n");
  }
}

int run(unsigned threads) {
  ::setpriority(PRIO_PROCESS, 0, 19);  // what else the guest does is to go on
  std::vector<std::thread> all;
  for (unsigned i = 0; i < threads; ++i) all.emplace_back(count, i);
  for (std::thread& thread : all) thread.join();
  return 0;
}

int check(unsigned threads) {
  struct Last {
    std::uint64_t lines = 0, count = 0, clock = 0;
  };
  std::vector<Last> last(threads);
  char line[512];
  while (std::fgets(line, sizeof line, stdin) != nullptr) {
    if (std::strstr(line, "its memory is not") != nullptr) {
      std::printf("%s", line);
      return 1;
    }
    if (std::strncmp(line, "count ", 6) != 0) continue;
    unsigned thread = 0;
    std::uint64_t count = 0, value = 0, clock = 0, date = 0;
    const int fields = std::sscanf(line, "count %u %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64,
                                   &thread, &count, &value, &clock, &date);
    const bool right = fields == 5 && thread < threads && value == steps(thread, count) &&
                       count > last[thread].count && clock >= last[thread].clock;
    if (!right) {
      std::printf("not what was counted: %s", line);
      return 1;
    }
    last[thread] = {last[thread].lines + 1, count, clock};
  }
  for (unsigned i = 0; i < threads; ++i) {
    if (last[i].lines < 2) {
      std::printf("thread %u does not count\n", i);
      return 1;
    }
    std::printf("thread %u: %" PRIu64 " steps in %" PRIu64 " lines\n", i, last[i].count,
                last[i].lines);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string verb = argc == 3 ? argv[1] : "";
  const unsigned threads = argc == 3 ? static_cast<unsigned>(std::atoi(argv[2])) : 0;
  if (threads >= 1 && threads <= 64 && verb == "run") return run(threads);
  if (threads >= 1 && threads <= 64 && verb == "check") return check(threads);
  std::fprintf(stderr, "usage: guest_counter run|check THREADS\n");
  return 2;
}
