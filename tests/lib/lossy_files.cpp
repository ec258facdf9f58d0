// Preloaded into a server: what it writes to regular files is in its memory until it calls
// fsync, so that killing the server loses it, as a power failure would. Holes that it makes are
// zeros in that memory.
//
// While the file exists that LOSSY_FILES_FAIL names, the next fsync removes it and fails, with the
// errno that it contains: what was to be stored can still be read and is not tried again, as Linux
// has it.
//
// Knows the calls that nfs-ganesha's VFS makes: pwritev, preadv, fallocate, fsync, fdatasync. It
// loads that part with RTLD_DEEPBIND, which would find the C library's calls before these: the flag is
// taken away.
// Both names of each call are defined here; off_t has 64 bits anyway.
#undef _FILE_OFFSET_BITS
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

namespace {

constexpr off_t page = 512;
struct Page {
  std::vector<char> data;
  bool failed = false;  // to be stored
};
using Pages = std::map<off_t, Page>;  // by number
std::mutex mutex;                                  // guards files
std::map<std::pair<dev_t, ino_t>, Pages> files;

template <class Function>
Function real(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}
using Preadv = ssize_t (*)(int, const iovec*, int, off_t);
using Sync = int (*)(int);

Pages* pages_of(int fd) {
  struct stat info{};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) return nullptr;
  return &files[{info.st_dev, info.st_ino}];
}

void read_file(int fd, off_t at, char* data, std::size_t length) {
  static const auto preadv_ = real<Preadv>("preadv");
  std::memset(data, 0, length);
  const iovec whole{data, length};
  [[maybe_unused]] const auto got = preadv_(fd, &whole, 1, at);
}

// The errno that the next fsync is to fail with; 0: none.
int wanted_failure() {
  const char* const name = getenv("LOSSY_FILES_FAIL");
  if (name == nullptr) return 0;
  std::FILE* const file = std::fopen(name, "re");
  if (file == nullptr) return 0;
  int number = 0;
  if (std::fscanf(file, "%d", &number) != 1) number = EIO;
  std::fclose(file);
  unlink(name);
  return number;
}

int make_stable(int fd, const char* name) {
  const std::lock_guard lock(mutex);
  if (Pages* const pages = pages_of(fd); pages != nullptr && !pages->empty()) {
    if (const int failure = wanted_failure(); failure != 0) {
      for (auto& [number, kept] : *pages) kept.failed = true;
      errno = failure;
      return -1;
    }
    for (const auto& [number, kept] : *pages) {
      if (!kept.failed && pwrite(fd, kept.data.data(), page, number * page) != page) return -1;
    }
    std::erase_if(*pages, [](const auto& entry) { return !entry.second.failed; });
  }
  return real<Sync>(name)(fd);
}

ssize_t write_later(int fd, const iovec* parts, int count, off_t at) {
  const std::lock_guard lock(mutex);
  Pages* const pages = pages_of(fd);
  ssize_t done = 0;
  for (int i = 0; i < count; ++i) {
    const auto* from = static_cast<const char*>(parts[i].iov_base);
    for (std::size_t left = parts[i].iov_len; left > 0;) {
      const off_t number = at / page, begin = at % page;
      const auto part = std::min<std::size_t>(left, static_cast<std::size_t>(page - begin));
      auto& [data, failed] = (*pages)[number];
      failed = false;
      if (data.empty()) {
        data.resize(page);
        read_file(fd, number * page, data.data(), page);
      }
      std::memcpy(data.data() + begin, from, part);
      from += part;
      left -= part;
      at += static_cast<off_t>(part);
      done += static_cast<ssize_t>(part);
    }
  }
  return done;
}

ssize_t read_both(int fd, const iovec* parts, int count, off_t at) {
  const std::lock_guard lock(mutex);
  const ssize_t got = real<Preadv>("preadv")(fd, parts, count, at);
  const Pages* const pages = pages_of(fd);
  if (got <= 0 || pages == nullptr) return got;
  ssize_t left = got;
  for (int i = 0; i < count && left > 0; ++i) {
    const auto part = std::min<ssize_t>(left, static_cast<ssize_t>(parts[i].iov_len));
    for (auto it = pages->lower_bound(at / page); it != pages->end(); ++it) {
      const off_t from = std::max(it->first * page, at);
      const off_t to = std::min((it->first + 1) * page, at + static_cast<off_t>(part));
      if (from >= to) break;
      std::memcpy(static_cast<char*>(parts[i].iov_base) + (from - at),
                  it->second.data.data() + (from - it->first * page),
                  static_cast<std::size_t>(to - from));
    }
    at += part;
    left -= part;
  }
  return got;
}

int fallocate_later(int fd, int mode, off_t at, off_t length) {
  struct stat info{};
  if ((mode & FALLOC_FL_PUNCH_HOLE) == 0 || fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) ||
      at >= info.st_size)
    return real<int (*)(int, int, off_t, off_t)>("fallocate")(fd, mode, at, length);
  length = std::min(length, info.st_size - at);
  const std::vector<char> zeros(1 << 20);
  while (length > 0) {
    const iovec part{const_cast<char*>(zeros.data()),
                     std::min<std::size_t>(zeros.size(), static_cast<std::size_t>(length))};
    const ssize_t done = write_later(fd, &part, 1, at);
    at += done;
    length -= done;
  }
  return 0;
}

}  // namespace

extern "C" {
int fallocate(int fd, int mode, off_t at, off_t length) {
  return fallocate_later(fd, mode, at, length);
}
int fallocate64(int fd, int mode, off64_t at, off64_t length) {
  return fallocate_later(fd, mode, at, length);
}
ssize_t pwritev(int fd, const iovec* parts, int count, off_t at) {
  return write_later(fd, parts, count, at);
}
ssize_t pwritev64(int fd, const iovec* parts, int count, off64_t at) {
  return write_later(fd, parts, count, at);
}
ssize_t preadv(int fd, const iovec* parts, int count, off_t at) {
  return read_both(fd, parts, count, at);
}
ssize_t preadv64(int fd, const iovec* parts, int count, off64_t at) {
  return read_both(fd, parts, count, at);
}
void* dlopen(const char* file, int flags) {
  static const auto dlopen_ = real<void* (*)(const char*, int)>("dlopen");
  return dlopen_(file, flags & ~RTLD_DEEPBIND);
}
int fsync(int fd) { return make_stable(fd, "fsync"); }
int fdatasync(int fd) { return make_stable(fd, "fdatasync"); }
}
