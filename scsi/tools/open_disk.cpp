#include "scsi/tools/open_disk.h"

#include <filesystem>

#include "blockdev/stores/file_store.h"
#include "blockdev/stores/nfs_directory.h"
#include "blockdev/stores/nfs_store.h"

namespace tidepool::scsi::tools {

namespace {

Result<Disk> open_nfs_disk(const std::string& uri, bool read_only) {
  const auto where = blockdev::parse_nfs_uri(uri);
  if (!where) return std::unexpected(where.error());
  auto store = blockdev::open_nfs_store(uri, {.read_only = read_only});
  if (!store) return std::unexpected(store.error());
  return Disk{std::move(*store),
              reservation_file_in(blockdev::nfs_directory(*where, "", {}), where->file)};
}

}  // namespace

Result<Disk> open_disk(const std::string& name, bool read_only) {
  if (blockdev::is_nfs_uri(name)) return open_nfs_disk(name, read_only);
  std::error_code error;
  const auto path = std::filesystem::absolute(name, error);
  if (error) return fail_errno(error.value(), fmt::format("cannot find '{}'", name));
  auto store = blockdev::FileStore::open(path, {.read_only = read_only});
  if (!store) return std::unexpected(store.error());
  return Disk{std::move(*store),
              reservation_file_in(blockdev::local_directory(path.parent_path()), path.filename())};
}

}  // namespace tidepool::scsi::tools
