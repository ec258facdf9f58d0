#include "fs/fuse/daemon.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "base/log.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

namespace tidepool::elasticfs {

Result<Background> Background::enter() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return fail_errno(errno, "cannot make a pipe");
  UniqueFd read_end(ends[0]), write_end(ends[1]);
  pid_t child = ::fork();
  if (child < 0) return fail_errno(errno, "cannot fork");
  if (child > 0) {
    write_end.reset();
    char byte = 1;
    ssize_t got;
    do got = ::read(read_end.get(), &byte, 1);
    while (got < 0 && errno == EINTR);
    ::_exit(got == 1 ? 0 : 1);
  }
  ::setsid();
  Background background;
  background.parent_ = std::move(write_end);
  return background;
}

void Background::ready() {
  if (!parent_) return;
  UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  // stderr stays where it was only when it is no terminal: a log file, the journal.
  for (int fd : {0, 1, 2})
    if (null && (fd != 2 || ::isatty(2))) ::dup2(null.get(), fd);
  [[maybe_unused]] ssize_t written = ::write(parent_.get(), "", 1);
  parent_.reset();
}

void notify_service_manager(const std::string& state) {
  const char* path = std::getenv("NOTIFY_SOCKET");
  if (!path || (path[0] != '/' && path[0] != '@')) return;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::size_t length = std::strlen(path);
  if (length >= sizeof address.sun_path) return;
  std::memcpy(address.sun_path, path, length);
  if (path[0] == '@') address.sun_path[0] = '\0';
  UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return;
  ::sendto(socket.get(), state.data(), state.size(), MSG_NOSIGNAL,
           reinterpret_cast<const sockaddr*>(&address),
           static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length));
}

void prepare_for_low_memory() {
  if (::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0)
    log().debug("PR_SET_IO_FLUSHER: {}", std::strerror(errno));
  // Pages as they are touched: the request buffers are large and mostly unused.
  if (::mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0)
    log().debug("mlockall: {}", std::strerror(errno));
  std::ofstream("/proc/self/oom_score_adj") << "-1000";
}

void lift_cache_limits(const std::string& mountpoint) {
  struct stat s {};
  if (::stat(mountpoint.c_str(), &s) < 0) return;
  std::string bdi = fmt::format("/sys/class/bdi/{}:{}/", ::major(s.st_dev), ::minor(s.st_dev));
  for (auto [name, value] :
       {std::pair{"max_ratio", "5"}, {"strict_limit", "1"}, {"read_ahead_kb", "4096"}}) {
    std::ofstream out(bdi + name);
    out << value << std::flush;
    if (!out) log().debug("cannot set {}{}", bdi, name);
  }
}

}  // namespace tidepool::elasticfs
