// The elastic pool: many VMs' thin disks in one file or block device.
//
// This is the shell around the pure PoolState: it owns the store, the journal,
// the commit thread and the one lock. Names, sizes and figures are answered
// synchronously from memory; data moves through a PoolChannel (fs/pool/
// pool_channel.h), one per event loop.
//
// Durability: a change (name, size, mapping, setting) is in memory when the
// call returns and on stable storage after the next commit: commit(), a flush
// through a channel, or the background commit (PoolOptions::commit_interval).
//
// Thread-safe throughout, except open and destruction. No channel may outlive
// the pool; holds must be released before it is destroyed.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "blockdev/block_store.h"

namespace tidepool::pool {

// Identifies the root, a VM directory or a disk for the life of the pool; never
// reused. Also the FUSE inode number.
using NodeId = std::uint64_t;
inline constexpr NodeId root_id = 1;
inline constexpr NodeId node_id_limit = 1ULL << 62;  // all are below; counting never gets there

inline constexpr std::uint32_t block_size = 4096;  // bytes; the unit of mapping and space
inline constexpr std::size_t name_limit = 255;     // bytes of a VM's or disk's name

enum class NodeKind : std::uint8_t { root = 0, vm = 1, disk = 2 };

// What a flush promises for a VM's disks. durable: stable when it returns.
// scratch: returns at once, a commit follows in the background; a power loss may
// lose what was flushed (never another VM's isolation, never the pool).
enum class Durability : std::uint8_t { durable = 0, scratch = 1 };

struct Times {  // nanoseconds since the epoch
  std::int64_t access = 0, modify = 0, change = 0, birth = 0;
};

struct Attributes {
  NodeId id = 0;
  NodeId parent = 0;
  NodeKind kind = NodeKind::disk;
  std::uint32_t mode = 0;  // permission bits only
  std::uint32_t uid = 0, gid = 0;
  std::uint64_t size = 0;             // bytes; 0 for directories
  std::uint64_t allocated_bytes = 0;  // pool space held (a VM: the sum of its disks)
  std::uint32_t children = 0;         // root: VMs; VM: disks
  Times times;
};

struct AttributeChanges {
  std::optional<std::uint32_t> mode, uid, gid;
  std::optional<std::int64_t> access, modify;  // nanoseconds
};

struct VmSettings {
  std::uint64_t quota = 0;    // bytes the VM may hold; 0 = no limit
  std::uint64_t reserve = 0;  // bytes kept free for it, whatever others do
  Durability durability = Durability::durable;
};

struct DirectoryEntry {
  NodeId id = 0;
  NodeKind kind = NodeKind::disk;
  std::string name;
};

struct SpaceFigures {           // bytes, as one VM (or the root: the whole pool) sees them
  std::uint64_t total = 0;      // its quota, or the pool's data space
  std::uint64_t available = 0;  // new blocks it could still get: min of quota left and pool left
  std::uint64_t used = 0;       // held by its disks
};

struct PoolFigures {
  std::string uuid;
  std::uint64_t pool_bytes = 0;       // size of the file or device
  std::uint64_t metadata_bytes = 0;   // fixed areas: superblocks, journal, checkpoints
  std::uint64_t data_bytes = 0;       // space for disks
  std::uint64_t used_bytes = 0;       // mapped by disks
  std::uint64_t releasing_bytes = 0;  // freed, not yet reusable (commit or punch pending)
  std::uint64_t reserved_bytes = 0;   // reservations not yet used
  std::uint64_t disk_bytes = 0;       // sum of the disks' sizes (thin)
  std::uint32_t chunk_bytes = 0;
  std::uint64_t vms = 0, disks = 0, extents = 0;
  std::uint64_t map_memory_bytes = 0;                             // heap held by the extent maps
  std::uint64_t commits = 0, checkpoints = 0, journal_bytes = 0;  // since open
  std::uint64_t recovered_records = 0;  // journal records replayed at open
};

struct CreateOptions {
  std::uint64_t size = 0;                   // bytes; 0 = the store's size
  std::uint32_t chunk_bytes = 1024 * 1024;  // power of two, 64 KiB .. 16 MiB
};

// Test-only switches that take one protection away, so that the test that
// watches over it can be shown to go red.
struct Sabotage {
  bool skip_data_barrier = false;       // journal records may become stable before the data
  bool skip_journal_barrier = false;    // flush returns before the journal is stable
  bool reuse_before_commit = false;     // freed blocks are handed out at once
  bool expose_old_content = false;      // first partial write does not zero the rest of the block
  bool keep_doubtful_mappings = false;  // a repair believes mappings older than a damaged journal
};

struct PoolOptions {
  bool read_only = false;
  bool background = true;  // commit and release thread; without it commit() does the work inline
  std::chrono::milliseconds commit_interval{1000};
  Sabotage sabotage;
};

class PoolImpl;
class Disk;  // an open disk, see hold()

class Pool {
 public:
  // Writes an empty pool. Refuses (exists) a store that already holds one unless force.
  static Result<> create(blockdev::BlockStore& store, const CreateOptions& options,
                         bool force = false);
  // Recovers the pool's state. The store must stay open and unchanged by others.
  static Result<std::unique_ptr<Pool>> open(std::shared_ptr<blockdev::BlockStore> store,
                                            const PoolOptions& options);
  ~Pool();  // commits and writes a checkpoint (clean close), unless read-only or failed

  // --- names; permission checks are the caller's (the kernel's) ---
  Result<Attributes> lookup(NodeId parent, std::string_view name) const;
  Result<Attributes> attributes(NodeId id) const;
  Result<std::string> name_of(NodeId id) const;
  Result<std::vector<DirectoryEntry>> list(NodeId directory) const;
  Result<Attributes> make_vm(std::string_view name, std::uint32_t mode, std::uint32_t uid,
                             std::uint32_t gid);
  Result<Attributes> make_disk(NodeId vm, std::string_view name, std::uint32_t mode,
                               std::uint32_t uid, std::uint32_t gid);
  Result<> remove_vm(std::string_view name);               // must be empty: ENOTEMPTY
  Result<> remove_disk(NodeId vm, std::string_view name);  // space back when the last hold ends
  // Disks move within or between VMs (the space moves along, quota and reserves permitting);
  // VMs within the root. Replaces an existing disk unless no_replace.
  Result<> rename(NodeId from_parent, std::string_view from_name, NodeId to_parent,
                  std::string_view to_name, bool no_replace);
  Result<Attributes> set_attributes(NodeId id, const AttributeChanges& changes);

  // --- open disks: a hold keeps a disk's content while it has no name any more ---
  Result<Disk*> hold(NodeId disk);
  void release(Disk* disk);
  // Size only; a caller that shrinks first discards [new_size, old_size) through
  // a channel, and keeps writes away meanwhile (the kernel does).
  Result<> set_size(Disk& disk, std::uint64_t size);

  // --- space ---
  Result<SpaceFigures> space(NodeId root_or_vm) const;
  Result<VmSettings> vm_settings(NodeId vm) const;
  // Reserves only what the pool still has: no_space otherwise.
  Result<> set_vm_settings(NodeId vm, const VmSettings& settings);
  PoolFigures figures() const;
  Result<> locate(Disk& disk, std::uint64_t offset, std::uint64_t length,
                  const std::function<bool(const blockdev::Range&)>& sink) const;

  // --- durability and life ---
  Result<> commit();  // returns when everything before it is stable
  void commit_async(std::function<void(int error)> done);  // done: on the commit thread
  // Commits, then punches what was freed; returns when nothing is pending.
  Result<> release_freed();
  // The store has grown to `size` (caller resized it); grows the pool to it.
  Result<> grow(std::uint64_t size);

  PoolImpl& impl() { return *impl_; }  // for PoolChannel

 private:
  explicit Pool(std::unique_ptr<PoolImpl> impl);
  std::unique_ptr<PoolImpl> impl_;
};

}  // namespace tidepool::pool
