#include "blockdev/stores/file_store.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <mutex>

#include "base/checked.h"
#include "base/size_text.h"
#include "blockdev/stores/file_channel.h"
#include "blockdev/sync_channel.h"

namespace tidepool::blockdev {

namespace {

constexpr std::uint32_t least_block = 512;  // bytes; the waist knows no smaller ones

struct Alignment {
  std::uint32_t block = least_block;
  std::uint32_t memory = 1;
};

// Where statx does not tell: what a device says, or what a read is refused for.
Alignment probed_alignment(int fd, bool device) {
  if (device) {
    int block = 0;
    if (::ioctl(fd, BLKSSZGET, &block) == 0 && block > 0) {
      const auto size = std::max(least_block, static_cast<std::uint32_t>(block));
      return {size, size};
    }
    return {4096, 4096};
  }
  AlignedBuffer buffer(4096);
  const auto got = ::pread(fd, buffer.data() + least_block, least_block, 0);
  return got < 0 && errno == EINVAL ? Alignment{4096, 4096} : Alignment{least_block, least_block};
}

Alignment direct_alignment(int fd, bool device) {
#ifdef STATX_DIOALIGN
  struct statx info {};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 &&
      (info.stx_mask & STATX_DIOALIGN) != 0 && info.stx_dio_offset_align != 0) {
    return {std::max(least_block, info.stx_dio_offset_align),
            std::max(std::uint32_t{1}, info.stx_dio_mem_align)};
  }
#endif
  return probed_alignment(fd, device);
}

Result<std::uint64_t> size_of(const FileTarget& target) {
  std::uint64_t size = 0;
  if (target.device) {
    if (::ioctl(target.fd.get(), BLKGETSIZE64, &size) != 0) {
      return fail_errno(errno, fmt::format("cannot read the size of '{}'", target.name));
    }
  } else {
    struct stat info {};
    if (::fstat(target.fd.get(), &info) != 0) {
      return fail_errno(errno, fmt::format("cannot read the size of '{}'", target.name));
    }
    size = static_cast<std::uint64_t>(info.st_size);
  }
  const auto rounded = checked_round_up(size, std::uint64_t{target.logical_block});
  if (!rounded) return fail(ErrorKind::invalid_argument, "'{}' is too large", target.name);
  return *rounded;
}

// Whether zeros can be had without writing them. Touches no content: the range
// lies far beyond the end of the file.
bool can_punch(const FileTarget& target, std::uint64_t size, dev_t device_number) {
  if (target.device) {
    // A partition has its queue in the whole device's directory.
    const auto base =
        fmt::format("/sys/dev/block/{}:{}/", major(device_number), minor(device_number));
    for (const char* queue : {"queue/", "../queue/"}) {
      std::uint64_t bytes = 0;
      if (std::ifstream(base + queue + "write_zeroes_max_bytes") >> bytes) return bytes > 0;
    }
    return false;
  }
  constexpr std::uint64_t distance = std::uint64_t{1} << 30;
  const auto offset = round_up(size, std::uint64_t{4096}) + distance;
  const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  return ::fallocate(target.fd.get(), mode, static_cast<off_t>(offset), 4096) == 0 ||
         errno != EOPNOTSUPP;
}

enum class Lock : short { none = F_UNLCK, shared = F_RDLCK, exclusive = F_WRLCK };

Result<> take_lock(const FileTarget& target, Lock wanted) {
  struct flock lock {};
  lock.l_type = static_cast<short>(wanted);
  lock.l_whence = SEEK_SET;
  if (::fcntl(target.fd.get(), F_OFD_SETLK, &lock) == 0) return {};
  if (errno == EAGAIN || errno == EACCES) {
    return fail(ErrorKind::busy, "'{}' is in use by another process", target.name);
  }
  return fail_errno(errno, fmt::format("cannot lock '{}'", target.name));
}

class OpenFileStore final : public FileStore {
 public:
  FileTarget target;

  const std::string& name() const override { return target.name; }
  Result<> share_lock() override { return take_lock(target, Lock::shared); }
  Result<std::shared_ptr<FileStore>> open_for_change() override {
    // By its descriptor: it may have another name by now.
    if (auto freed = take_lock(target, Lock::none); !freed) return std::unexpected(freed.error());
    auto store = FileStore::open(fmt::format("/proc/self/fd/{}", target.fd.get()),
                                 {.direct = target.direct});
    if (store) {
      static_cast<OpenFileStore&>(**store).target.name = target.name;
    } else {
      if (store.error().kind == ErrorKind::busy)
        store = fail(ErrorKind::busy, "'{}' is in use by another process", target.name);
      if (auto again = take_lock(target, Lock::shared); !again)
        return std::unexpected(again.error());
    }
    return store;
  }
  int fd() const override { return target.fd.get(); }

  Geometry geometry() const override { return target.geometry(); }

  Result<std::unique_ptr<IoChannel>> open_channel(EventLoop& loop) override {
    return std::make_unique<FileChannel>(loop, target);
  }

  Result<std::uint64_t> allocated_bytes() const override {
    if (target.device) return target.size.load();
    struct stat info {};
    if (::fstat(target.fd.get(), &info) != 0) {
      return fail_errno(errno, fmt::format("cannot read the usage of '{}'", target.name));
    }
    return static_cast<std::uint64_t>(info.st_blocks) * 512;
  }

  Result<> set_size(std::uint64_t size) override {
    const std::lock_guard lock(size_mutex_);
    if (!target.device) {
      if (target.read_only) {
        return fail(ErrorKind::permission, "cannot resize '{}': opened read-only", target.name);
      }
      if (size % target.logical_block != 0) {
        return fail(ErrorKind::invalid_argument,
                    "cannot resize '{}' to {} bytes: not a multiple of its block of {} bytes",
                    target.name, size, target.logical_block);
      }
      int result = 0;
      do {
        result = ::ftruncate(target.fd.get(), static_cast<off_t>(size));
      } while (result != 0 && errno == EINTR);
      if (result != 0) {
        return fail_errno(
            errno, fmt::format("cannot resize '{}' to {}", target.name, format_size_exactly(size)));
      }
    }
    const auto now = size_of(target);
    if (!now) return std::unexpected(now.error());
    target.size.store(*now);
    return {};
  }

  Result<> locate(std::uint64_t offset, std::uint64_t length,
                  const std::function<bool(const Range&)>& sink) override {
    if (!range_fits(offset, length, target.size.load())) {
      return fail(ErrorKind::invalid_argument, "no range {}+{} in '{}' of {} bytes", offset, length,
                  target.name, target.size.load());
    }
    const std::uint64_t end = offset + length;
    while (offset < end) {
      const auto data = seek(offset, SEEK_DATA, end);
      if (!data) return std::unexpected(data.error());
      if (*data > offset && !sink({offset, *data - offset, RangeKind::hole, 0})) return {};
      if (*data == end) return {};
      const auto hole = seek(*data, SEEK_HOLE, end);
      if (!hole) return std::unexpected(hole.error());
      // Equal only when the data was punched meanwhile: look again from there.
      if (*hole > *data && !sink({*data, *hole - *data, RangeKind::data, *data})) return {};
      offset = *hole;
    }
    return {};
  }

 private:
  // The next data or hole at or after `offset`, at most `end`.
  Result<std::uint64_t> seek(std::uint64_t offset, int whence, std::uint64_t end) const {
    const off_t found = ::lseek(target.fd.get(), static_cast<off_t>(offset), whence);
    if (found >= 0) return std::min(static_cast<std::uint64_t>(found), end);
    if (errno == ENXIO) return end;  // nothing but a hole up to the end of the file
    if (errno == EINVAL) return whence == SEEK_DATA ? offset : end;  // cannot tell: all is data
    return fail_errno(errno, fmt::format("cannot map '{}' at {}", target.name, offset));
  }

  std::mutex size_mutex_;  // one resize at a time
};

Result<UniqueFd> open_file(const std::string& path, int flags) {
  UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC));
  if (fd) return fd;
  if (errno == EBUSY) return fail(ErrorKind::busy, "'{}' is in use by another process", path);
  return fail_errno(errno, fmt::format("cannot open '{}'", path));
}

}  // namespace

Result<std::shared_ptr<FileStore>> FileStore::open(const std::filesystem::path& path,
                                                   const FileStoreOptions& options) {
  auto store = std::make_shared<OpenFileStore>();
  FileTarget& target = store->target;
  target.name = path.string();
  target.read_only = options.read_only;

  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    return fail_errno(errno, fmt::format("cannot open '{}'", target.name));
  }
  if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode)) {
    return fail(ErrorKind::invalid_argument,
                "cannot use '{}' as a disk: neither a regular file nor a block device",
                target.name);
  }
  target.device = S_ISBLK(info.st_mode);

  int flags = options.read_only ? O_RDONLY : O_RDWR;
  // Exclusive against mounts and other writers; readers share by the file lock.
  if (options.lock && target.device && !options.read_only) flags |= O_EXCL;
  target.direct = options.direct;
  auto fd = open_file(target.name, flags | (options.direct ? O_DIRECT : 0));
  if (!fd && options.direct && fd.error().errno_value == EINVAL) {
    target.direct = false;
    fd = open_file(target.name, flags);
  }
  if (!fd) return std::unexpected(fd.error());
  target.fd = std::move(*fd);
  if (options.lock) {
    auto locked = take_lock(target, target.read_only ? Lock::shared : Lock::exclusive);
    if (!locked) return std::unexpected(locked.error());
  }

  if (target.direct) {
    const auto alignment = direct_alignment(target.fd.get(), target.device);
    target.logical_block = alignment.block;
    target.memory_alignment = alignment.memory;
  } else if (target.device) {
    target.logical_block = probed_alignment(target.fd.get(), true).block;
  }
  const auto size = size_of(target);
  if (!size) return std::unexpected(size.error());
  target.size.store(*size);
  target.can_punch.store(!options.read_only && can_punch(target, *size, info.st_rdev));
  return store;
}

}  // namespace tidepool::blockdev
