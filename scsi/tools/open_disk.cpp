#include "scsi/tools/open_disk.h"

#include <unistd.h>

#include <array>
#include <filesystem>

#include "blockdev/stores/file_store.h"
#include "blockdev/stores/nfs_directory.h"
#include "blockdev/stores/nfs_store.h"

namespace tidepool::scsi::tools {

namespace {

using blockdev::lease::Lease;

std::string this_process() {
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0) host[0] = '?';
  return fmt::format("{} (process {})", host.data(), ::getpid());
}

Result<std::unique_ptr<Lease>> take_lease(const std::string& uri,
                                          const blockdev::NfsLocation& where,
                                          const DiskOptions& options) {
  const auto open = [where](std::chrono::milliseconds patience, int stop) {
    return blockdev::nfs_directory(where, where.file + ".lock",
                                   {.most = patience, .stop = stop, .keep = true});
  };
  return Lease::take(open, {.terms = blockdev::lease::terms_of(options.lease),
                            .disk = uri,
                            .host = this_process(),
                            .wait = options.wait,
                            .stop = options.stop});
}

Result<Disk> open_nfs_disk(const std::string& uri, const DiskOptions& options) {
  const auto where = blockdev::parse_nfs_uri(uri);
  if (!where) return std::unexpected(where.error());
  blockdev::RemoteOptions remote{.read_only = options.read_only};
  Disk disk;
  if (!options.read_only && options.lease.count() > 0) {
    // What is wrong with the disk is said of the disk, not of its lock.
    if (auto found = blockdev::open_nfs_store(uri, {.read_only = true}); !found)
      return std::unexpected(found.error());
    auto lease = take_lease(uri, *where, options);
    if (!lease) return std::unexpected(lease.error());
    disk.lease = std::move(*lease);
    remote.sole_writer = true;
    remote.permit = [&lease = *disk.lease] { return lease.permit(); };
    remote.unacknowledged = unacknowledged_of(blockdev::lease::terms_of(options.lease));
  }
  auto store = blockdev::open_nfs_store(uri, remote);
  if (!store) return std::unexpected(store.error());
  disk.store = std::move(*store);
  disk.reservations = reservation_file_in(blockdev::nfs_directory(*where, "", {}), where->file);
  return disk;
}

}  // namespace

Result<Disk> open_disk(const std::string& name, const DiskOptions& options) {
  if (blockdev::is_nfs_uri(name)) return open_nfs_disk(name, options);
  std::error_code error;
  const auto path = std::filesystem::absolute(name, error);
  if (error) return fail_errno(error.value(), fmt::format("cannot find '{}'", name));
  auto store = blockdev::FileStore::open(path, {.read_only = options.read_only});
  if (!store) return std::unexpected(store.error());
  auto directory = blockdev::local_directory(path.parent_path());
  return Disk{.store = std::move(*store),
              .reservations = reservation_file_in(std::move(directory), path.filename())};
}

}  // namespace tidepool::scsi::tools
