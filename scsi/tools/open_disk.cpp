#include "scsi/tools/open_disk.h"

#include <filesystem>

#include "blockdev/stores/file_store.h"

namespace tidepool::scsi::tools {

Result<Disk> open_disk(const std::string& name, bool read_only) {
  std::error_code error;
  const auto path = std::filesystem::absolute(name, error);
  if (error) return fail_errno(error.value(), fmt::format("cannot find '{}'", name));
  auto store = blockdev::FileStore::open(path, {.read_only = read_only});
  if (!store) return std::unexpected(store.error());
  return Disk{std::move(*store), reservation_file_of(path)};
}

}  // namespace tidepool::scsi::tools
