#include "scsi/tools/open_disk.h"

#include <unistd.h>

#include <array>
#include <filesystem>

#include "blockdev/stores/file_store.h"
#include "blockdev/stores/nfs_directory.h"
#include "blockdev/stores/nfs_store.h"
#include "scsi/shared_part.h"

namespace tidepool::scsi::tools {

namespace {

using blockdev::lease::Lease;
using blockdev::lease::SharedLease;
using blockdev::lease::SharedState;

std::string this_process() {
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0) host[0] = '?';
  return fmt::format("{} (process {})", host.data(), ::getpid());
}

struct Lock {
  Lease::OpenDirectory open;
  blockdev::lease::LeaseOptions options;
};

Lock lock_of(const std::string& uri, const blockdev::NfsLocation& where,
             const DiskOptions& options) {
  const auto open = [where](std::chrono::milliseconds patience, int stop) {
    return blockdev::nfs_directory(where, where.file + ".lock",
                                   {.most = patience, .stop = stop, .keep = true});
  };
  return {open,
          {.terms = blockdev::lease::terms_of(options.lease),
           .disk = uri,
           .host = this_process(),
           .wait = options.wait,
           .stop = options.stop}};
}

// Of those hosts that shared a disk, none of which is there any more: as after a loss of power.
Result<ReservationState> left_by(const SharedState& hosts) {
  auto part = decode_shared_part(hosts.payload);
  if (!part) return std::unexpected(part.error());
  return part->reservations.through_power_loss ? part->reservations : ReservationState{};
}

Result<> own_alone(Disk& disk, const Lock& lock) {
  auto lease = Lease::take(lock.open, lock.options);
  if (!lease) return std::unexpected(lease.error());
  disk.lease = std::move(*lease);
  if (!disk.lease->inherited()) return {};
  const auto left = left_by(*disk.lease->inherited());
  if (!left) return std::unexpected(left.error());
  if (auto kept = disk.reservations->save(*left); !kept) return kept;
  return disk.lease->drop_inheritance();
}

Result<> share(Disk& disk, const Lock& lock) {
  const auto first =
      [&](const std::optional<SharedState>& before) -> Result<std::vector<std::byte>> {
    auto left = before ? left_by(*before) : disk.reservations->load();
    if (!left) return std::unexpected(left.error());
    return encode_shared_part({.reservations = std::move(*left), .effects = {}});
  };
  auto shared = SharedLease::join(lock.open, lock.options, first, {});
  if (!shared) return std::unexpected(shared.error());
  disk.shared = std::move(*shared);
  return {};
}

Result<Disk> open_nfs_disk(const std::string& uri, const DiskOptions& options) {
  const auto where = blockdev::parse_nfs_uri(uri);
  if (!where) return std::unexpected(where.error());
  blockdev::RemoteOptions remote{.read_only = options.read_only};
  Disk disk;
  disk.reservations = reservation_file_in(blockdev::nfs_directory(*where, "", {}), where->file);
  if (!options.read_only && options.lease.count() > 0) {
    // What is wrong with the disk is said of the disk, not of its lock.
    if (auto found = blockdev::open_nfs_store(uri, {.read_only = true}); !found)
      return std::unexpected(found.error());
    const Lock lock = lock_of(uri, *where, options);
    if (auto mine = options.shared ? share(disk, lock) : own_alone(disk, lock); !mine)
      return std::unexpected(mine.error());
    remote.sole_writer = !disk.shared;
    if (disk.shared)
      remote.permit = [&shared = *disk.shared] { return shared.permit(); };
    else
      remote.permit = [&lease = *disk.lease] { return lease.permit(); };
    remote.unacknowledged = unacknowledged_of(lock.options.terms);
  }
  auto store = blockdev::open_nfs_store(uri, remote);
  if (!store) return std::unexpected(store.error());
  disk.store = std::move(*store);
  return disk;
}

}  // namespace

Result<Disk> open_disk(const std::string& name, const DiskOptions& options) {
  if (blockdev::is_nfs_uri(name)) return open_nfs_disk(name, options);
  if (options.shared)
    return fail(ErrorKind::invalid_argument,
                "'{}' is not on NFS: only a disk there can be shared with other hosts", name);
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
