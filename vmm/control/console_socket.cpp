#include "vmm/control/console_socket.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace tidepool::vmm {

namespace {

// All of it or nothing more: a part would be a line that nobody printed.
bool send_now(int descriptor, std::string_view text) {
  return ::send(descriptor, text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL) ==
         static_cast<ssize_t>(text.size());
}

}  // namespace

void ConsoleWatchers::print(std::string_view text) {
  const std::lock_guard lock(mutex_);
  kept_ += text;
  // Not at each byte.
  if (kept_.size() > 2 * most_kept) kept_.erase(0, kept_.size() - most_kept);
  std::erase_if(watchers_, [&](const auto& watcher) {
    if (send_now(watcher->get(), text)) return false;
    ::shutdown(watcher->get(), SHUT_RDWR);
    return true;
  });
}

bool ConsoleWatchers::add(std::shared_ptr<const UniqueFd> watcher) {
  const std::lock_guard lock(mutex_);
  if (watchers_.size() >= most_watchers) return false;
  const std::string_view kept = kept_;
  if (!kept.empty() &&
      !send_now(watcher->get(), kept.substr(kept.size() - std::min(kept.size(), most_kept)))) {
    return false;
  }
  watchers_.push_back(std::move(watcher));
  return true;
}

void ConsoleWatchers::remove(int descriptor) {
  const std::lock_guard lock(mutex_);
  std::erase_if(watchers_, [&](const auto& watcher) { return watcher->get() == descriptor; });
}

ConsoleSocket::ConsoleSocket(std::string path, ConsoleWatchers& watchers, UniqueFd listener,
                             UniqueFd wakeup, std::function<void(std::string_view)> type)
    : path_(std::move(path)),
      watchers_(watchers),
      listener_(std::move(listener)),
      wakeup_(std::move(wakeup)),
      type_(std::move(type)) {}

Result<std::unique_ptr<ConsoleSocket>> ConsoleSocket::start(
    const std::string& path, ConsoleWatchers& watchers, std::function<void(std::string_view)> type,
    std::function<void()> on_thread) {
  sockaddr_un address{.sun_family = AF_UNIX};
  if (path.size() >= sizeof address.sun_path) {
    return fail(ErrorKind::invalid_argument,
                "console socket '{}': a socket's path has at most {} bytes", path,
                sizeof address.sun_path - 1);
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  UniqueFd wakeup(::eventfd(0, EFD_CLOEXEC));
  ::unlink(path.c_str());
  // The file gets the mode of the unbound socket: there is no moment at which others connect.
  if (!listener || !wakeup || ::fchmod(listener.get(), 0600) != 0 ||
      ::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listener.get(), 4) != 0) {
    return fail_errno(errno, fmt::format("console socket '{}': cannot listen", path));
  }
  std::unique_ptr<ConsoleSocket> console(
      new ConsoleSocket(path, watchers, std::move(listener), std::move(wakeup), std::move(type)));
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  console->thread_ = std::thread([console = console.get(), on_thread = std::move(on_thread)] {
    if (on_thread) on_thread();
    console->serve();
  });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return console;
}

ConsoleSocket::~ConsoleSocket() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(wakeup_.get(), &one, sizeof one);
  if (thread_.joinable()) thread_.join();
  for (const auto& watcher : attached_) watchers_.remove(watcher->get());
  ::unlink(path_.c_str());
}

void ConsoleSocket::serve() {
  std::vector<pollfd> events;
  for (;;) {
    events.assign({{wakeup_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}});
    for (const auto& watcher : attached_) events.push_back({watcher->get(), POLLIN, 0});
    if (::poll(events.data(), events.size(), -1) < 0) continue;
    if (events[0].revents != 0) return;
    for (std::size_t i = events.size(); i-- > 2;) {
      if (events[i].revents == 0 || read_from(*attached_[i - 2])) continue;
      watchers_.remove(attached_[i - 2]->get());
      attached_.erase(attached_.begin() + static_cast<std::ptrdiff_t>(i - 2));
    }
    if (events[1].revents != 0) accept();
  }
}

void ConsoleSocket::accept() {
  auto watcher = std::make_shared<UniqueFd>(
      ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (*watcher && watchers_.add(watcher)) attached_.push_back(std::move(watcher));
}

// False: it has gone.
bool ConsoleSocket::read_from(const UniqueFd& watcher) {
  std::array<char, 4096> typed;
  const ssize_t got = ::read(watcher.get(), typed.data(), typed.size());
  if (got < 0) return errno == EAGAIN || errno == EINTR;
  if (got > 0) type_({typed.data(), static_cast<std::size_t>(got)});
  return got > 0;
}

}  // namespace tidepool::vmm
