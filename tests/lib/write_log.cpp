// Preloaded into a server: each write that begins with "TOKENLOG" is a line in the file
// WRITE_LOG, in the order in which they were carried out: token, process, sequence number
// (lease_writer).
//
// Knows the call that nfs-ganesha's VFS makes: pwritev. It loads that part with RTLD_DEEPBIND,
// which would find the C library's call before this one: the flag is taken away.
#undef _FILE_OFFSET_BITS
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace {

std::mutex mutex;  // held over line and write, so that their order is one

template <class Function>
Function real(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

struct Mark {
  std::array<char, 8> magic;
  std::uint64_t token, process, number;
};

void note(const iovec* parts, int count) {
  Mark mark{};
  if (count < 1 || parts[0].iov_len < sizeof mark) return;
  std::memcpy(&mark, parts[0].iov_base, sizeof mark);
  if (std::memcmp(mark.magic.data(), "TOKENLOG", 8) != 0) return;
  static const int log = open(getenv("WRITE_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  std::array<char, 80> line{};
  const int length = std::snprintf(
      line.data(), line.size(), "%llu %llu %llu\n", static_cast<unsigned long long>(mark.token),
      static_cast<unsigned long long>(mark.process), static_cast<unsigned long long>(mark.number));
  if (write(log, line.data(), static_cast<std::size_t>(length)) != length) std::abort();
}

ssize_t logged_write(int fd, const iovec* parts, int count, off_t at) {
  static const auto pwritev_ = real<ssize_t (*)(int, const iovec*, int, off_t)>("pwritev");
  const std::lock_guard lock(mutex);
  note(parts, count);
  return pwritev_(fd, parts, count, at);
}

}  // namespace

extern "C" {
ssize_t pwritev(int fd, const iovec* parts, int count, off_t at) {
  return logged_write(fd, parts, count, at);
}
ssize_t pwritev64(int fd, const iovec* parts, int count, off64_t at) {
  return logged_write(fd, parts, count, at);
}
void* dlopen(const char* file, int flags) {
  static const auto dlopen_ = real<void* (*)(const char*, int)>("dlopen");
  return dlopen_(file, flags & ~RTLD_DEEPBIND);
}
}
