#include "blockdev/chain/file_system.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>

#include "base/size_text.h"
#include "base/unique_fd.h"
#include "blockdev/stores/file_store.h"

namespace tidepool::blockdev::chain {

namespace {

namespace fs = std::filesystem;

constexpr mode_t layer_mode = 0600;

fs::path directory_of(const fs::path& file) {
  return file.has_parent_path() ? file.parent_path() : fs::path(".");
}

bool same_file(const fs::path& one, const fs::path& other) {
  struct stat here {}, there {};
  return ::stat(one.c_str(), &here) == 0 && ::stat(other.c_str(), &there) == 0 &&
         here.st_ino == there.st_ino && here.st_dev == there.st_dev;
}

// The kernel ends the rings of a process that closed a file, or died, a little later,
// and until then the file's lock may be held.
constexpr std::chrono::milliseconds lock_wait{1000}, lock_pause{10};

// Layers are read and written through the page cache.
Result<std::shared_ptr<BlockStore>> open_file(const fs::path& path, bool read_only) {
  for (auto waited = 0 * lock_pause;; waited += lock_pause) {
    auto store = FileStore::open(path, {.read_only = read_only, .direct = false});
    if (store) return *store;
    if (store.error().kind != ErrorKind::busy || waited >= lock_wait)
      return std::unexpected(store.error());
    std::this_thread::sleep_for(lock_pause);
  }
}

class LocalFiles final : public FileSystem {
 public:
  Result<std::shared_ptr<BlockStore>> open(const Path& path, bool read_only) override {
    return open_file(path, read_only);
  }

  Result<std::shared_ptr<BlockStore>> create(const Path& path, std::uint64_t bytes) override {
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, layer_mode));
    if (!fd) return fail_errno(errno, fmt::format("cannot create '{}'", path.native()));
    const auto make = [&]() -> Result<std::shared_ptr<BlockStore>> {
      if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
        return fail_errno(errno,
                          fmt::format("cannot make '{}' {} large (of which nothing is used yet)",
                                      path.native(), format_size(bytes)));
      }
      return open_file(path, false);
    };
    auto store = make();
    if (!store) ::unlink(path.c_str());
    return store;
  }

  Result<std::shared_ptr<BlockStore>> open_for_change(BlockStore& held) override {
    auto store = static_cast<FileStore&>(held).open_for_change();
    if (!store) return std::unexpected(store.error());
    return *store;
  }
  Result<> share(BlockStore& held) override { return static_cast<FileStore&>(held).share_lock(); }

  Result<std::size_t> read_start(const Path& path, std::span<std::byte> data) override {
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) return fail_errno(errno, fmt::format("cannot open '{}'", path.native()));
    const auto got = ::pread(fd.get(), data.data(), data.size(), 0);
    if (got < 0) return fail_errno(errno, fmt::format("cannot read '{}'", path.native()));
    return static_cast<std::size_t>(got);
  }

  Result<> set_size(BlockStore& held, std::uint64_t bytes) override {
    return static_cast<FileStore&>(held).set_size(bytes);
  }

  bool exists(const Path& path) override {
    struct stat status {};
    return ::lstat(path.c_str(), &status) == 0;
  }

  Result<> link(const Path& path, const Path& name) override {
    if (::link(path.c_str(), name.c_str()) == 0) return {};
    if (errno == EEXIST && same_file(path, name)) return {};
    return fail_errno(errno, fmt::format("cannot give '{}' the name '{}'", path.native(), name.native()));
  }

  bool same(const Path& one, const Path& other) override { return same_file(one, other); }

  void leave_link(const Path& child, const Path& parent, const std::string& tag) override {
    std::error_code ignored;
    const fs::path target = fs::absolute(child, ignored).lexically_normal();
    const fs::path place = fs::canonical(directory_of(parent), ignored);
    if (place.empty() || fs::equivalent(directory_of(child), place, ignored)) return;
    fs::create_symlink(target, place / fmt::format("{}.{}", child.filename().native(), tag), ignored);
  }

  Result<> rename(const Path& from, const Path& to) override {
    if (::rename(from.c_str(), to.c_str()) == 0) return {};
    return fail_errno(errno, fmt::format("cannot rename '{}' to '{}'", from.native(), to.native()));
  }

  Result<> remove(const Path& path) override {
    if (::unlink(path.c_str()) == 0 || errno == ENOENT) return {};
    return fail_errno(errno, fmt::format("cannot remove '{}'", path.native()));
  }

  Result<> sync_directory(const Path& file) override {
    const fs::path directory = directory_of(file);
    UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd || ::fsync(fd.get()) != 0)
      return fail_errno(errno, fmt::format("cannot flush the directory '{}'", directory.native()));
    return {};
  }

  Result<std::vector<Path>> beside(const Path& file) override {
    const fs::path directory = directory_of(file);
    std::vector<Path> found;
    std::error_code error;
    for (fs::directory_iterator at(directory, error), end; !error && at != end; at.increment(error)) {
      std::error_code ignored;
      if (!at->is_regular_file(ignored)) continue;
      found.push_back(file.has_parent_path() ? at->path() : at->path().filename());
    }
    if (error)
      return fail_errno(error.value(), fmt::format("cannot list '{}'", directory.native()));
    std::sort(found.begin(), found.end());
    return found;
  }

  Result<std::int64_t> change_time(const Path& path) override {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0)
      return fail_errno(errno, fmt::format("cannot look at '{}'", path.native()));
    if (!S_ISREG(status.st_mode)) return 0;
    return std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
  }
};

}  // namespace

FileSystem& local_files() {
  static LocalFiles files;
  return files;
}

}  // namespace tidepool::blockdev::chain
