// fsx_elastic PATH: random operations on a file of any file system, against a
// copy in memory (fsx_core.h). With --direct a third of the transfers go through
// a second descriptor opened with O_DIRECT, so that cached and uncached access
// must agree.
#include <sys/mman.h>
#include <sys/stat.h>

#include "tests/conformance/fsx_core.h"

namespace {

using judge::RangeCall;

int as_errno(long result) { return result < 0 ? errno : 0; }

class PathTarget : public judge::FsxTarget {
 public:
  PathTarget(std::string path, bool direct) : path_(std::move(path)), direct_(direct) {
    file_.reset(open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (!file_.valid()) judge::die("cannot create %s: %s", path_.c_str(), std::strerror(errno));
    if (const int error = open_direct())
      judge::die("cannot open %s with O_DIRECT: %s", path_.c_str(), std::strerror(error));
  }

  Capabilities capabilities() const override {
    return {.maps = true, .caches = true, .grows = true, .alignment = direct_ ? 512u : 0u};
  }

  int read(std::uint64_t offset, std::span<unsigned char> data, bool direct) override {
    std::size_t done = 0;
    while (done < data.size()) {
      const ssize_t got = pread(fd(direct), data.data() + done, data.size() - done,
                                static_cast<off_t>(offset + done));
      if (got < 0) return errno;
      if (got == 0) return ENODATA;  // the file ended early
      done += static_cast<std::size_t>(got);
    }
    return 0;
  }

  int write(std::uint64_t offset, std::span<const unsigned char> data, bool direct) override {
    const ssize_t put = pwrite(fd(direct), data.data(), data.size(), static_cast<off_t>(offset));
    if (put < 0) return errno;
    return static_cast<std::size_t>(put) == data.size() ? 0 : ENOSPC;
  }

  int map_read(std::uint64_t offset, std::span<unsigned char> data) override {
    return with_map(offset, data.size(), PROT_READ, false,
                    [&](unsigned char* memory) { std::memcpy(data.data(), memory, data.size()); });
  }

  int map_write(std::uint64_t offset, std::span<const unsigned char> data, bool sync) override {
    return with_map(offset, data.size(), PROT_READ | PROT_WRITE, sync,
                    [&](unsigned char* memory) { std::memcpy(memory, data.data(), data.size()); });
  }

  int truncate(std::uint64_t size) override {
    return as_errno(ftruncate(file_.get(), static_cast<off_t>(size)));
  }

  int range(RangeCall call, bool keep_size, std::uint64_t offset, std::uint64_t length) override {
    int mode = keep_size ? FALLOC_FL_KEEP_SIZE : 0;
    if (call == RangeCall::punch) mode |= FALLOC_FL_PUNCH_HOLE;
    if (call == RangeCall::zero) mode |= FALLOC_FL_ZERO_RANGE;
    return as_errno(
        fallocate(file_.get(), mode, static_cast<off_t>(offset), static_cast<off_t>(length)));
  }

  int sync(bool data_only) override {
    return as_errno(data_only ? fdatasync(file_.get()) : fsync(file_.get()));
  }

  int reopen() override {
    file_.reset();
    direct_file_.reset();
    file_.reset(open(path_.c_str(), O_RDWR | O_CLOEXEC));
    return file_.valid() ? open_direct() : errno;
  }

  int drop_caches() override {
    // Dirty pages are not dropped, so they are written first.
    if (fdatasync(file_.get()) < 0) return errno;
    return posix_fadvise(file_.get(), 0, 0, POSIX_FADV_DONTNEED);
  }

  int size(std::uint64_t& bytes) override {
    struct stat status {};
    if (fstat(file_.get(), &status) < 0) return errno;
    bytes = static_cast<std::uint64_t>(status.st_size);
    return 0;
  }

  int seek(bool data, std::uint64_t offset, std::uint64_t& found) override {
    const off_t at = lseek(file_.get(), static_cast<off_t>(offset), data ? SEEK_DATA : SEEK_HOLE);
    if (at < 0) return errno;
    found = static_cast<std::uint64_t>(at);
    return 0;
  }

 private:
  int fd(bool direct) const { return direct ? direct_file_.get() : file_.get(); }

  int open_direct() {
    if (!direct_) return 0;
    direct_file_.reset(open(path_.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
    return direct_file_.valid() ? 0 : errno;
  }

  template <class Body>
  int with_map(std::uint64_t offset, std::size_t length, int protection, bool sync, Body body) {
    const std::uint64_t start = offset / 4096 * 4096;
    const std::size_t span = offset - start + length;
    void* memory =
        mmap(nullptr, span, protection, MAP_SHARED, file_.get(), static_cast<off_t>(start));
    if (memory == MAP_FAILED) return errno;
    body(static_cast<unsigned char*>(memory) + (offset - start));
    int error = sync ? as_errno(msync(memory, span, MS_SYNC)) : 0;
    if (munmap(memory, span) < 0 && error == 0) error = errno;
    return error;
  }

  const std::string path_;
  const bool direct_;
  judge::Fd file_, direct_file_;
};

}  // namespace

int main(int argc, char** argv) {
  const judge::FsxCommand command(argc, argv, {"direct"}, "usage: fsx_elastic PATH [--direct]");
  PathTarget target(command.path(), command.has("direct"));
  judge::Fsx(target, command.fsx).run();
}
