#include "vmm/tools/terminal.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "base/quiet_thread.h"
#include "base/log.h"
#include "vmm/sandbox/confinement.h"

namespace tidepool::tools {

Keyboard::Keyboard(std::function<void(std::string_view)> type, std::function<void()> escape)
    : type_(std::move(type)), escape_(std::move(escape)), wake_(::eventfd(0, EFD_CLOEXEC)) {
  if (::isatty(STDIN_FILENO) == 1 && ::tcgetattr(STDIN_FILENO, &before_) == 0) {
    termios wanted = before_;
    ::cfmakeraw(&wanted);
    wanted.c_oflag |= OPOST;  // messages of ours keep their line ends
    raw_ = ::tcsetattr(STDIN_FILENO, TCSANOW, &wanted) == 0;
  }
  thread_ = start_quiet_thread("keyboard", [this] { read_keys(); });
}

Keyboard::~Keyboard() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(wake_.get(), &one, sizeof one);
  thread_.join();
  if (raw_) ::tcsetattr(STDIN_FILENO, TCSANOW, &before_);
}

void Keyboard::read_keys() {
  if (auto confined = vmm::confine_thread(vmm::ThreadKind::terminal); !confined) {
    log().error("{}", confined.error().message);
    return escape_();
  }
  std::string buffer(4096, '\0');
  for (;;) {
    pollfd entries[] = {{.fd = wake_.get(), .events = POLLIN, .revents = 0},
                        {.fd = STDIN_FILENO, .events = POLLIN, .revents = 0}};
    if (::poll(entries, 2, -1) < 0 && errno != EINTR) return;
    if (entries[0].revents != 0) return;
    if (entries[1].revents == 0) continue;
    const ssize_t got = ::read(STDIN_FILENO, buffer.data(), buffer.size());
    if (got <= 0) return;  // nothing more will come; the machine runs on
    take(std::string_view(buffer).substr(0, static_cast<std::size_t>(got)));
  }
}

void Keyboard::take(std::string_view keys) {
  if (!raw_) return type_(keys);
  constexpr char escape_key = 1, end_key = 'x';
  std::string typed;
  for (const char key : keys) {
    if (!escaped_ && key == escape_key) {
      escaped_ = true;
      continue;
    }
    if (escaped_ && key == end_key) return escape_();
    escaped_ = false;
    typed.push_back(key);
  }
  if (!typed.empty()) type_(typed);
}

void print(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDOUT_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

}  // namespace tidepool::tools
