#include "fs/control/live_pool.h"

#include <fcntl.h>

#include <chrono>
#include <thread>

#include "fs/control/control_service.h"
#include "fs/control/pool_identity.h"

namespace tidepool::control {
namespace {

using nlohmann::json;

bool serves(const json& info, const struct stat& file) {
  struct stat served {};
  const auto path = info.find("path");
  return path != info.end() && path->is_string() &&
         ::stat(path->get<std::string>().c_str(), &served) == 0 && served.st_ino == file.st_ino &&
         served.st_dev == file.st_dev;
}

// Nothing when the file holds no readable superblock: opening it will say why.
Result<std::optional<std::string>> uuid_of_file(const std::string& path) {
  const auto store =
      blockdev::FileStore::open(path, {.read_only = true, .direct = false, .lock = false});
  if (!store) return std::unexpected(store.error());
  const auto identity = identify_pool(**store);
  if (!identity) return std::unexpected(identity.error());
  return identity->uuid;
}

// Asks the kernel alone: the daemon may be about to end.
bool is_mounted(const std::string& directory) {
  struct statx status {};
  return ::statx(AT_FDCWD, directory.c_str(), AT_STATX_DONT_SYNC, 0, &status) == 0 &&
         (status.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

// Where the file is mounted and served; nothing also when that cannot be told.
std::optional<std::string> mount_point_of(const std::string& path) {
  struct stat file {};
  if (::stat(path.c_str(), &file) != 0) return std::nullopt;
  auto live = find_daemon_of_file(path, file);
  if (!live || !*live || !is_mounted((*live)->mount_point)) return std::nullopt;
  return std::move((*live)->mount_point);
}

}  // namespace

Result<LivePool> find_daemon(const std::string& uuid, const struct stat* file) {
  std::optional<Error> refusal;
  for (const std::string& path : control_socket_candidates(uuid)) {
    auto client = ControlClient::connect(path);
    if (!client) {
      if (client.error().kind != ErrorKind::not_found) refusal = client.error();
      continue;
    }
    auto control = std::make_unique<RemoteControl>(std::move(*client));
    const auto info = control->info();
    if (!info) return std::unexpected(info.error());
    if (file != nullptr && !serves(*info, *file)) continue;
    return LivePool{std::move(control), info->value("mount_point", std::string())};
  }
  if (refusal) return std::unexpected(std::move(*refusal));
  return fail(ErrorKind::not_found, "no daemon answers for pool {}", uuid);
}

Result<std::optional<LivePool>> find_daemon_of_file(const std::string& path,
                                                    const struct stat& file) {
  const auto uuid = uuid_of_file(path);
  if (!uuid) return std::unexpected(uuid.error());
  if (!*uuid) return std::nullopt;
  auto live = find_daemon(**uuid, &file);
  if (live) return std::optional(std::move(*live));
  if (live.error().kind == ErrorKind::not_found) return std::nullopt;
  return std::unexpected(live.error());
}

Result<std::shared_ptr<blockdev::FileStore>> open_when_free(
    const std::string& path, const blockdev::FileStoreOptions& options) {
  using std::chrono::milliseconds;
  // A daemon that was sent a signal takes a moment to stop answering.
  constexpr milliseconds between_tries(20), before_asking(250), patience(5000);
  const auto start = std::chrono::steady_clock::now();
  for (auto ask_at = start + before_asking;;) {
    auto store = blockdev::FileStore::open(path, options);
    const auto now = std::chrono::steady_clock::now();
    if (store || store.error().kind != ErrorKind::busy || now >= start + patience) return store;
    if (now >= ask_at) {
      ask_at = now + before_asking;
      if (const auto mount_point = mount_point_of(path))
        return fail(ErrorKind::busy, "pool '{}' is in use: it is mounted on {}", path,
                    *mount_point);
    }
    std::this_thread::sleep_for(between_tries);
  }
}

}  // namespace tidepool::control
