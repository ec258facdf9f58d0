// The files of chains by path: what this room needs of a file system, and the seam
// where tests put one that loses its power.
//
// Blocking; any thread. A path names the same file for all functions; changes of
// names are stable only after sync_directory().
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "blockdev/block_store.h"

namespace tidepool::blockdev::chain {

class FileSystem {
 public:
  using Path = std::filesystem::path;
  virtual ~FileSystem() = default;

  // Locked for the life of the store: shared when read-only, else exclusively. A
  // lock that others hold is ErrorKind::busy.
  virtual Result<std::shared_ptr<BlockStore>> open(const Path& path, bool read_only) = 0;
  // A new file of `bytes` zeros, sparse and locked exclusively.
  virtual Result<std::shared_ptr<BlockStore>> create(const Path& path, std::uint64_t bytes) = 0;
  // The file of `held`, which open() gave for reading, to be written: the exclusive
  // lock is the new store's, `held` has none any more. On failure (busy: others
  // use the file) `held` has its lock again.
  virtual Result<std::shared_ptr<BlockStore>> open_for_change(BlockStore& held) = 0;
  // From here on others may read the file, too.
  virtual Result<> share(BlockStore& held) = 0;

  // The first bytes of a file, as many as fit or are there; needs no lock.
  virtual Result<std::size_t> read_start(const Path& path, std::span<std::byte> data) = 0;
  // A regular file becomes this large; a device must be so already.
  virtual Result<> set_size(BlockStore& held, std::uint64_t bytes) = 0;

  virtual bool exists(const Path& path) = 0;
  // A second name; no error where `name` is the same file already.
  virtual Result<> link(const Path& path, const Path& name) = 0;
  virtual bool same(const Path& one, const Path& other) = 0;  // one file by two paths
  // Where `child` is in another directory than `parent`, a symbolic link to it beside
  // `parent`, so that beside() there tells of it. Where none can be made, none is.
  virtual void leave_link(const Path& child, const Path& parent, const std::string& tag) = 0;
  virtual Result<> rename(const Path& from, const Path& to) = 0;
  virtual Result<> remove(const Path& path) = 0;  // no error where it does not exist
  virtual Result<> sync_directory(const Path& file) = 0;  // the one that `file` is in
  // The regular files beside `file`, itself included, also by symbolic links.
  virtual Result<std::vector<Path>> beside(const Path& file) = 0;
  // When a regular file was last changed, nanoseconds since 1970; 0 for a device.
  virtual Result<std::int64_t> change_time(const Path& path) = 0;
};

FileSystem& local_files();  // lives for ever

}  // namespace tidepool::blockdev::chain
