#include "fs/fuse/cached_writers.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "base/unique_fd.h"

namespace tidepool::elasticfs {

CachedWriters::~CachedWriters() {
  {
    std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  wakeup_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void CachedWriters::add(pool::NodeId disk) {
  std::scoped_lock lock(mutex_);
  ++open_[disk];
}

void CachedWriters::remove(pool::NodeId disk) {
  std::scoped_lock lock(mutex_);
  auto it = open_.find(disk);
  if (it != open_.end() && --it->second == 0) open_.erase(it);
}

bool CachedWriters::contains(pool::NodeId disk) {
  std::scoped_lock lock(mutex_);
  return open_.contains(disk);
}

void CachedWriters::write_back(pool::NodeId disk, std::function<void(bool)> done) {
  {
    std::scoped_lock lock(mutex_);
    jobs_.push_back({disk, std::move(done)});
    if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  }
  wakeup_.notify_one();
}

void CachedWriters::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wakeup_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    std::vector<Job> jobs = std::exchange(jobs_, {});
    bool give_up = stopping_;
    lock.unlock();
    for (Job& job : jobs) job.done(!give_up && write_back_now(job.disk));
    lock.lock();
  }
}

// Through the mount itself, by name; the loops go on serving meanwhile.
// sync_file_range alone of its kind does not take the inode's lock, which the
// caller of lseek holds.
bool CachedWriters::write_back_now(pool::NodeId disk) const {
  auto attributes = pool_.attributes(disk);
  if (!attributes || attributes->parent == 0) return false;
  auto vm = pool_.name_of(attributes->parent), name = pool_.name_of(disk);
  if (!vm || !name) return false;
  std::string path = mountpoint_ + "/" + *vm + "/" + *name;
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NOATIME));
  struct stat s {};
  if (!file || ::fstat(file.get(), &s) < 0 || s.st_ino != disk) return false;
  return ::sync_file_range(
             file.get(), 0, 0,
             SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER) == 0;
}

}  // namespace tidepool::elasticfs
