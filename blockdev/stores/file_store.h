// A file or block device as a BlockStore, on io_uring.
//
// Reads and writes go with O_DIRECT where the file system offers it, so nothing
// is cached twice. flush is fdatasync. discard punches a hole (file) or discards
// (device); on a device that does not promise zeros after a discard, and where
// punching is not supported, zeros are written instead. zero keeps the space.
// The size is read at open, rounded up to the logical block (what is beyond the
// file's real end reads as zeros); set_size() changes a regular file's.
//
// Limit: locate() calls preallocated space that was never written a hole, as
// SEEK_HOLE does.
#pragma once

#include <filesystem>
#include <memory>

#include "blockdev/block_store.h"

namespace tidepool::blockdev {

struct FileStoreOptions {
  bool read_only = false;
  bool direct = true;  // O_DIRECT; falls back to buffered where refused (tmpfs)
  // Takes an exclusive lock for the life of the store: an open file description
  // lock on the file, O_EXCL on a device. A held lock is ErrorKind::busy.
  // With read_only, the lock is shared.
  bool lock = true;
};

class FileStore : public BlockStore {
 public:
  static Result<std::shared_ptr<FileStore>> open(const std::filesystem::path& path,
                                                 const FileStoreOptions& options);
  // Bytes the file really occupies (st_blocks); a device's size for a device.
  virtual Result<std::uint64_t> allocated_bytes() const = 0;
  // Regular file: ftruncate. Device: only re-reads the size. Thread-safe.
  virtual Result<> set_size(std::uint64_t size) = 0;
  // From here on others may have a shared lock, too: for who will only read on.
  virtual Result<> share_lock() = 0;
  // The same file to be written, with the exclusive lock; this store has none any
  // more. busy: others use the file; then this store has its shared lock again.
  virtual Result<std::shared_ptr<FileStore>> open_for_change() = 0;
  virtual int fd() const = 0;  // borrowed
};

}  // namespace tidepool::blockdev
