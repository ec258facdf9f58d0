#include "base/background.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>

namespace tidepool {

namespace {

// In the old process: what the new one says decides.
[[noreturn]] void wait_for_news(const UniqueFd& pipe) {
  std::string news;
  std::array<char, 4096> buffer;
  for (ssize_t got; (got = ::read(pipe.get(), buffer.data(), buffer.size())) != 0;) {
    if (got > 0)
      news.append(buffer.data(), static_cast<std::size_t>(got));
    else if (errno != EINTR)
      break;
  }
  const bool is_ready = news.starts_with('+');
  if (news.empty()) news = "-ended without a word\n";
  std::fputs(news.c_str() + 1, is_ready ? stdout : stderr);
  const bool printed = std::fflush(nullptr) == 0;
  ::_exit(is_ready && printed ? EXIT_SUCCESS : EXIT_FAILURE);
}

}  // namespace

Result<Background> Background::start() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno(errno, "cannot make a pipe");
  UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  const pid_t pid = ::fork();
  if (pid < 0) return fail_errno(errno, "cannot go to the background");
  if (pid > 0) {
    writer.reset();
    wait_for_news(reader);
  }
  ::setsid();
  return Background(std::move(writer));
}

Result<> Background::ready(const std::string& answer, const std::filesystem::path& log) {
  const UniqueFd file(::open(log.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600));
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!file || !null || ::chdir("/") != 0) return fail_errno(errno, "cannot go to the background");
  ::dup2(null.get(), STDIN_FILENO);
  ::dup2(null.get(), STDOUT_FILENO);
  ::dup2(file.get(), STDERR_FILENO);
  tell('+', answer);
  return {};
}

void Background::failed(const std::string& message) { tell('-', message); }

void Background::tell(char kind, const std::string& text) {
  const std::string news = kind + text;
  std::ignore = ::write(pipe_.get(), news.data(), news.size());
  pipe_.reset();
}

}  // namespace tidepool
