#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "base/unique_fd.h"
#include "base/uuid.h"
#include "blockdev/directory.h"

namespace tidepool::blockdev {

namespace {

Result<> write_all(int fd, std::span<const std::byte> data, const std::string& name) {
  while (!data.empty()) {
    const ssize_t written = ::write(fd, data.data(), data.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return fail_errno(errno, fmt::format("cannot write '{}'", name));
    data = data.subspan(static_cast<std::size_t>(written));
  }
  if (::fsync(fd) != 0) return fail_errno(errno, fmt::format("cannot sync '{}'", name));
  return {};
}

Result<> sync_directory(const std::string& name) {
  const UniqueFd fd(::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0)
    return fail_errno(errno, fmt::format("cannot sync the directory '{}'", name));
  return {};
}

class LocalDirectory final : public Directory {
 public:
  explicit LocalDirectory(std::string path) : name_(std::move(path)) {}

  const std::string& name() const override { return name_; }

  Result<> make() override {
    if (::mkdir(name_.c_str(), 0700) != 0) {
      if (errno == EEXIST) return {};
      return fail_errno(errno, fmt::format("cannot make the directory '{}'", name_));
    }
    const auto parent = std::filesystem::path(name_).parent_path();
    return sync_directory(parent.empty() ? "." : parent.native());
  }

  Result<std::vector<std::string>> list() override {
    struct Close {
      void operator()(DIR* directory) const { ::closedir(directory); }
    };
    const std::unique_ptr<DIR, Close> directory(::opendir(name_.c_str()));
    if (!directory) return fail_errno(errno, fmt::format("cannot list '{}'", name_));
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* const entry = ::readdir(directory.get())) {
      const std::string_view found = entry->d_name;
      if (found != "." && found != "..") names.emplace_back(found);
      errno = 0;
    }
    if (errno != 0) return fail_errno(errno, fmt::format("cannot list '{}'", name_));
    return names;
  }

  Result<std::vector<std::byte>> read(const std::string& file, std::size_t most) override {
    const std::string path = path_of(file);
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) return fail_errno(errno, fmt::format("cannot open '{}'", path));
    std::vector<std::byte> data(most);
    std::size_t size = 0;
    while (size < most) {
      const ssize_t got = ::read(fd.get(), &data[size], most - size);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return fail_errno(errno, fmt::format("cannot read '{}'", path));
      if (got == 0) break;
      size += static_cast<std::size_t>(got);
    }
    data.resize(size);
    return data;
  }

  Result<> create(const std::string& file, std::span<const std::byte> data) override {
    return write_to(file, O_CREAT | O_EXCL, data, true);
  }

  Result<> publish(const std::string& file, std::span<const std::byte> data) override {
    const std::string fresh = file + "." + to_text(new_uuid()) + ".new";
    if (auto written = write_to(fresh, O_CREAT | O_EXCL, data, false); !written) return written;
    const bool linked = ::link(path_of(fresh).c_str(), path_of(file).c_str()) == 0;
    const int error = errno;
    if (auto removed = remove(fresh); !removed) return removed;
    if (linked) return {};
    return fail_errno(error, fmt::format("cannot make '{}'", path_of(file)));
  }

  Result<> overwrite(const std::string& file, std::span<const std::byte> data) override {
    return write_to(file, 0, data, false);
  }

  Result<> replace(const std::string& file, std::span<const std::byte> data) override {
    const std::string fresh = file + ".new";
    if (auto written = write_to(fresh, O_CREAT | O_TRUNC, data, false); !written) return written;
    if (::rename(path_of(fresh).c_str(), path_of(file).c_str()) != 0) {
      return fail_errno(errno,
                        fmt::format("cannot rename '{}' to '{}'", path_of(fresh), path_of(file)));
    }
    return sync_directory(name_);
  }

  Result<> remove(const std::string& file) override {
    if (::unlink(path_of(file).c_str()) != 0)
      return fail_errno(errno, fmt::format("cannot remove '{}'", path_of(file)));
    return sync_directory(name_);
  }

 private:
  std::string path_of(const std::string& file) const { return name_ + "/" + file; }

  Result<> write_to(const std::string& file, int flags, std::span<const std::byte> data,
                    bool is_new) {
    const std::string path = path_of(file);
    const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC | flags, 0600));
    if (!fd) return fail_errno(errno, fmt::format("cannot open '{}'", path));
    if (auto written = write_all(fd.get(), data, path); !written) return written;
    return is_new ? sync_directory(name_) : Result<>();
  }

  const std::string name_;
};

}  // namespace

std::unique_ptr<Directory> local_directory(const std::string& path) {
  return std::make_unique<LocalDirectory>(path.empty() ? "." : path);
}

}  // namespace tidepool::blockdev
