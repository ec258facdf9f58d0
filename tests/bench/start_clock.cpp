// start_clock TEXT COMMAND...: how long after its start a program prints TEXT, in
// milliseconds; then it is ended.
//
// The clock runs from before the program is executed until its output, a pipe, has the text.
// Its input is a pipe on which nothing comes. A program that ends before, or prints nothing
// of it for two minutes, is a failure, and its output is shown.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>

#include "tests/lib/judge.h"

extern char** environ;

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::minutes most{2};

struct Pipe {
  int out = -1, in = -1;
  Pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) judge::die("no pipe");
    out = ends[0], in = ends[1];
  }
};

// Until the text is there; false: it will not be.
bool read_until(int fd, const std::string& text, Clock::time_point end, std::string& printed) {
  char buffer[4096];
  while (printed.find(text) == printed.npos) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
    pollfd entry{.fd = fd, .events = POLLIN, .revents = 0};
    if (left.count() <= 0 || ::poll(&entry, 1, static_cast<int>(left.count())) <= 0) return false;
    const ssize_t got = ::read(fd, buffer, sizeof buffer);
    if (got <= 0) return false;
    printed.append(buffer, static_cast<std::size_t>(got));
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) judge::die("usage: start_clock TEXT COMMAND...");
  const Pipe keys, output;
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, keys.out, STDIN_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, output.in, STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, output.in, STDERR_FILENO);
  pid_t child = 0;
  const auto begun = Clock::now();
  if (::posix_spawnp(&child, argv[2], &actions, nullptr, argv + 2, environ) != 0)
    judge::die("cannot run %s", argv[2]);
  ::posix_spawn_file_actions_destroy(&actions);
  ::close(output.in);
  std::string printed;
  const bool came = read_until(output.out, argv[1], begun + most, printed);
  const std::chrono::duration<double, std::milli> took = Clock::now() - begun;
  ::kill(child, SIGTERM);
  ::close(output.out);
  ::waitpid(child, nullptr, 0);
  if (!came) judge::die("%s did not print '%s': %s", argv[2], argv[1], printed.c_str());
  std::printf("%.1f\n", took.count());
  return 0;
}
