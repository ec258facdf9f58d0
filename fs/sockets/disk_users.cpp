#include "fs/sockets/disk_users.h"

#include <utility>

namespace tidepool::elasticfs {

void DiskUsers::forget_idle(std::map<pool::NodeId, Users>::iterator entry) {
  if (!entry->second.any()) disks_.erase(entry);
}

DiskUsers::Opening DiskUsers::open(pool::NodeId disk) {
  std::scoped_lock lock(mutex_);
  Users& users = disks_[disk];
  if (users.attached) return {};
  const bool fresh = !std::exchange(users.stale, false) && users.direct == 0;
  ++users.cached;
  return {.cached = true, .keep_cache = fresh};
}

void DiskUsers::close_cached(pool::NodeId disk) {
  std::scoped_lock lock(mutex_);
  const auto entry = disks_.find(disk);
  if (entry == disks_.end()) return;
  --entry->second.cached;
  forget_idle(entry);
}

void DiskUsers::open_direct(pool::NodeId disk) {
  std::scoped_lock lock(mutex_);
  ++disks_[disk].direct;
}

void DiskUsers::close_direct(pool::NodeId disk) {
  std::scoped_lock lock(mutex_);
  Users& users = disks_[disk];
  --users.direct;
  users.stale = true;
}

bool DiskUsers::begin_shrink(pool::NodeId disk) {
  std::scoped_lock lock(mutex_);
  Users& users = disks_[disk];
  if (users.attached) return false;
  ++users.shrinking;
  return true;
}

void DiskUsers::end_shrink(pool::NodeId disk) {
  std::scoped_lock lock(mutex_);
  const auto entry = disks_.find(disk);
  if (entry == disks_.end()) return;
  --entry->second.shrinking;
  forget_idle(entry);
}

Result<> DiskUsers::attach(pool::NodeId disk, const std::string& name) {
  std::scoped_lock lock(mutex_);
  Users& users = disks_[disk];
  if (users.attached) {
    return fail(ErrorKind::busy, "disk '{}' serves another front end on its socket", name);
  }
  if (users.cached != 0) {
    return fail(ErrorKind::busy,
                "disk '{}' is open through the kernel's page cache; close it, or open it for "
                "direct I/O (O_DIRECT)",
                name);
  }
  if (users.shrinking != 0) return fail(ErrorKind::busy, "disk '{}' is being truncated", name);
  users.attached = true;
  return {};
}

void DiskUsers::detach(pool::NodeId disk) {
  std::scoped_lock lock(mutex_);
  Users& users = disks_[disk];
  users.attached = false;
  users.stale = true;
}

}  // namespace tidepool::elasticfs
