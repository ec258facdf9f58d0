#include "fs/tools/open_pool.h"

#include <sys/stat.h>
#include <sys/xattr.h>

#include <array>
#include <cerrno>
#include <filesystem>

#include "fs/control/live_pool.h"

namespace tidepool::tools {
namespace {

namespace fs = std::filesystem;

constexpr const char* uuid_attribute = "user.elasticfs.uuid";

struct Place {  // on a live mount
  std::string mount_point;
  std::string inside;
  std::string uuid;
};

// The mount that `path` lies on: the topmost directory of the same device.
fs::path mount_of(const fs::path& path, dev_t device) {
  fs::path top = path;
  while (top.has_parent_path() && top.parent_path() != top) {
    struct stat status {};
    if (::stat(top.parent_path().c_str(), &status) != 0 || status.st_dev != device) break;
    top = top.parent_path();
  }
  return top;
}

// What a FUSE mount without its daemon answers; the second to whoever asked while
// the daemon went.
bool says_gone(int errno_value) { return errno_value == ENOTCONN || errno_value == ECONNABORTED; }

std::unexpected<Error> daemon_gone(const std::string& path) {
  return fail(ErrorKind::io,
              "{}: its daemon is gone; run 'fusermount3 -u {}', then name the pool file", path,
              path);
}

std::unexpected<Error> no_pool(const std::string& directory) {
  return fail(ErrorKind::invalid_argument,
              "{}: neither a pool nor on a mounted pool; name the pool file or its mount point",
              directory);
}

// Where `path` is on an elastic file system; nothing when it is on another one.
Result<std::optional<Place>> find_place(const fs::path& path, dev_t device) {
  const fs::path top = mount_of(path, device);
  std::array<char, 64> uuid{};
  const ssize_t length = ::getxattr(top.c_str(), uuid_attribute, uuid.data(), uuid.size());
  // The kernel may have answered stat(2) from its cache.
  if (length < 0 && says_gone(errno)) return daemon_gone(top.string());
  if (length <= 0) return std::nullopt;
  const fs::path inside = path.lexically_relative(top);
  return Place{top.string(), inside == "." ? "" : inside.string(),
               std::string(uuid.data(), static_cast<std::size_t>(length))};
}

Result<struct stat> status_of(const std::string& name) {
  struct stat status {};
  if (::stat(name.c_str(), &status) == 0) return status;
  if (says_gone(errno)) return daemon_gone(name);
  return fail_errno(errno, name);
}

Result<std::shared_ptr<blockdev::FileStore>> open_store(const std::string& path, Access access) {
  auto store = control::open_when_free(path, {.read_only = access == Access::read});
  if (store || store.error().kind != ErrorKind::busy) return store;
  return fail(ErrorKind::busy,
              "pool {}: another process has it open, but no daemon answers for it; if it is "
              "mounted, name the mount point, as the user who mounted it",
              path);
}

}  // namespace

Result<OpenPool> open_pool(const std::string& name, Access access) {
  const auto status = status_of(name);
  if (!status) return std::unexpected(status.error());
  std::error_code ignored;
  const fs::path path = fs::canonical(name, ignored);

  OpenPool opened;
  const auto found = find_place(path, status->st_dev);
  if (!found) return std::unexpected(found.error());
  if (const auto& place = *found) {
    auto live = control::find_daemon(place->uuid, nullptr);
    if (!live)
      return std::unexpected(
          Error{live.error().kind, live.error().errno_value,
                fmt::format("mount point {}: {}", place->mount_point, live.error().message)});
    opened.control_ = std::move(live->control);
    opened.mount_point_ = place->mount_point;
    opened.inside_ = place->inside;
    return opened;
  }
  if (S_ISDIR(status->st_mode)) return no_pool(name);

  auto live = control::find_daemon_of_file(name, *status);
  if (!live) return std::unexpected(live.error());
  if (*live) {
    opened.control_ = std::move((*live)->control);
    opened.mount_point_ = std::move((*live)->mount_point);
    return opened;
  }

  auto store = open_store(name, access);
  if (!store) return std::unexpected(store.error());
  opened.store_ = std::move(*store);
  auto pool =
      pool::Pool::open(opened.store_, {.read_only = access == Access::read, .background = false});
  if (!pool) return std::unexpected(pool.error());
  opened.pool_ = std::move(*pool);
  opened.control_ = std::make_unique<control::LocalControl>(
      *opened.pool_, *opened.store_, control::PoolContext{path.string(), ""});
  return opened;
}

Result<std::shared_ptr<blockdev::FileStore>> open_offline_store(const std::string& name,
                                                                Access access) {
  const auto status = status_of(name);
  if (!status) return std::unexpected(status.error());
  if (S_ISDIR(status->st_mode)) {
    std::error_code ignored;
    const auto place = find_place(fs::canonical(name, ignored), status->st_dev);
    if (!place) return std::unexpected(place.error());
    if (!*place) return no_pool(name);
    return fail(ErrorKind::busy, "{}: this needs the pool unmounted; unmount it and name its file",
                name);
  }
  const auto live = control::find_daemon_of_file(name, *status);
  if (!live) return std::unexpected(live.error());
  if (*live)
    return fail(ErrorKind::busy, "pool {}: mounted on {}; unmount it first", name,
                (*live)->mount_point);
  return open_store(name, access);
}

}  // namespace tidepool::tools
