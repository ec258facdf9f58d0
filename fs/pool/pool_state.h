// What a pool is: its VMs and disks, their maps, the free space, the accounts.
//
// Pure: no I/O and no lock of its own (PoolImpl's mutex guards every call). Each
// change appends its record to the log, which the next commit takes.
//
// The life of a block: free -> taken by allocate() (in nobody's map) -> mapped by
// map_written() once its data is on the store -> unmapped into `freed` -> taken by
// the commit that makes the un-mapping durable -> punched -> free again. So a crash
// never finds one block in two maps, and no disk can read what another left.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/result.h"
#include "blockdev/extent_map.h"
#include "blockdev/range_locks.h"
#include "fs/pool/block_allocator.h"
#include "fs/pool/pool.h"
#include "fs/pool/records.h"

namespace tidepool::pool {

using blockdev::RangeLock;
using blockdev::RangeLocks;

struct Node {
  virtual ~Node() = default;
  NodeId id = 0;
  Node* parent = nullptr;  // null: the root, or a disk whose name is gone
  NodeKind kind = NodeKind::disk;
  std::string name;
  std::uint32_t mode = 0, uid = 0, gid = 0;
  Times times;
  bool dirty = false;  // changed since its last record in the log
};

struct Directory : Node {  // the root or a VM
  std::map<std::string, Node*, std::less<>> children;
  VmSettings settings;            // VM
  std::uint64_t used_blocks = 0;  // VM: taken or mapped by its disks

  std::uint64_t reserve_blocks() const { return settings.reserve / block_size; }
  std::uint64_t unused_reserve() const {
    return used_blocks < reserve_blocks() ? reserve_blocks() - used_blocks : 0;
  }
};

class Disk : public Node {
 public:
  Directory* vm = nullptr;   // the account its blocks are on; stays when the name is gone
  std::uint64_t size = 0;    // bytes
  std::uint64_t blocks = 0;  // taken or mapped
  std::uint32_t holds = 0;
  BlockAllocator::Owner owner = 0;  // of segment claims
  ExtentMap map;
  RangeLocks locks;  // writers in flight (PoolChannel)

  // Where its latest chunks went: blocks taken but not mapped yet are not in the
  // map, and the next write to such a chunk must find its place all the same.
  struct Placement {
    std::uint64_t disk_chunk = ~std::uint64_t{0}, pool_chunk = 0;
  };
  std::array<Placement, 32> placements;
  std::size_t next_placement = 0;
  std::optional<std::uint64_t> placement(std::uint64_t disk_chunk) const;
};

enum class Admission : std::uint8_t {
  granted,
  no_space,  // quota, reservations of others, or a full pool
  wait,      // the space is there but still being released: commit and retry
};

class PoolState : public RecordSink {
 public:
  struct Layout {
    std::uint64_t blocks = 0;  // of the pool
    std::uint32_t blocks_per_chunk = 0;
    std::uint64_t node_limit = 0;  // VMs and disks
    std::vector<Run> metadata;     // areas that are not for data
  };
  explicit PoolState(const Layout& layout);

  // --- names (contracts: pool.h) ---
  Result<Node*> find(NodeId id) const;
  Result<Directory*> find_directory(NodeId id) const;
  Result<Node*> lookup(NodeId parent, std::string_view name) const;
  Attributes attributes(const Node& node) const;
  Result<Node*> make(NodeId parent, NodeKind kind, std::string_view name, std::uint32_t mode,
                     std::uint32_t uid, std::uint32_t gid);
  Result<> remove(NodeId parent, std::string_view name, NodeKind kind);
  Result<> rename(NodeId from_parent, std::string_view from_name, NodeId to_parent,
                  std::string_view to_name, bool no_replace);
  void change(Node& node, const AttributeChanges& changes);
  Result<Disk*> hold(NodeId id);
  void release(Disk& disk);  // frees the disk when it has no name and no hold any more
  void set_size(Disk& disk, std::uint64_t size);
  void touch(Disk& disk, std::uint64_t end);  // after a write that ended at byte `end`

  // --- space ---
  Admission admit(const Directory& vm, std::uint64_t blocks) const;
  // Takes `count` blocks for [block, block + count) of the disk, which is unmapped
  // there; charges the VM. Only after admit() granted that many.
  void allocate(Disk& disk, std::uint64_t block, std::uint64_t count, std::vector<Extent>& out);
  // Gives back what allocate() took and nobody mapped.
  void abandon(Disk& disk, const Extent& extent);
  // Maps allocated blocks, or turns provisioned ones into written ones.
  void map_written(Disk& disk, const Extent& extent);
  void map_provisioned(Disk& disk, const Extent& extent);
  void unmap(Disk& disk, std::uint64_t begin, std::uint64_t end);
  // Turns what is mapped in the range into provisioned zeros.
  void map_as_zero(Disk& disk, std::uint64_t begin, std::uint64_t end);
  SpaceFigures space(const Directory& directory) const;
  Result<> set_settings(Directory& vm, const VmSettings& settings);
  void grow(std::uint64_t blocks, std::vector<Run> new_metadata);
  void give_back_metadata(const Run& run);

  // --- for commit and recovery ---
  // Everything changed since the last take, as records; and what was freed by it.
  struct Log {
    std::vector<std::byte> records;
    bool maps_data = false;  // some record makes data visible: the data goes first
  };
  Log take_log();
  std::vector<Run> take_freed() { return std::exchange(freed_, {}); }
  bool log_is_empty() const { return log_.empty() && dirty_.empty() && freed_.empty(); }
  void give_released(const Run& run);  // punched: free again
  // Joins runs that are about to be punched across free gaps of at most `most` blocks,
  // which are taken meanwhile: one punch instead of thousands.
  void join_across_free_gaps(std::vector<Run>& runs, std::uint64_t most);
  // Takes free blocks out of circulation as if they had just been freed (a crash
  // may have left data in them); they come back through give_released().
  void quarantine(const Run& run);
  // The whole state as records, in pieces of at most `piece_bytes`.
  void snapshot(std::size_t piece_bytes,
                const std::function<void(std::span<const std::byte>)>& sink) const;
  // For a repair that cannot read the journal to its end, before finish_recovery():
  // any block mapped here may have been freed in what is lost and be another disk's
  // by now, and nothing on the store says which. Un-maps all data; what is provisioned
  // shows nothing and stays.
  void drop_data_mappings(std::vector<std::string>& losses);
  // After the last record: marks the blocks used, sums the accounts. A block mapped
  // twice is corrupt; with `tolerant` nobody keeps it, as nothing says whose it is.
  Result<> finish_recovery(bool tolerant, std::vector<std::string>& findings,
                           std::vector<std::string>& losses);

  // RecordSink: replay
  Result<> node(const NodeRecord& record) override;
  Result<> remove(NodeId id) override;
  Result<> map(NodeId disk, const Extent& extent) override;
  Result<> unmap(NodeId disk, std::uint64_t block, std::uint64_t count) override;

  PoolFigures figures() const;  // the part of it that the state knows
  const BlockAllocator& allocator() const { return allocator_; }
  Directory& root() const { return *root_; }
  NodeId next_id() const { return next_id_; }
  void set_next_id(NodeId id) { next_id_ = std::max(next_id_, id); }
  std::uint64_t used_blocks() const { return used_blocks_; }
  std::uint64_t releasing_blocks() const { return releasing_blocks_; }
  void set_reuse_before_commit(bool on) { reuse_before_commit_ = on; }

 private:
  Node& add(NodeKind kind, NodeId id);
  void destroy(NodeId id);
  void mark_dirty(Node& node);
  void touch_directory(Directory& directory);
  // While replaying: un-maps what `pick` takes of each extent, and says whose data it was.
  using Pick = std::function<void(const Extent&, std::vector<Extent>& picked)>;
  void drop_mappings(const Pick& pick, std::vector<std::string>& losses);
  void drop_double_mappings(std::vector<std::string>& findings, std::vector<std::string>& losses);
  void charge(Directory& vm, std::int64_t blocks);
  void free_run(const Run& run);
  std::optional<Run> take_for(Disk& disk, std::uint64_t block, std::uint64_t most);
  void detach(Disk& disk);  // the name is gone: frees it, or lets it live until its last hold
  void free_disk(Disk& disk);
  void log_map(const Disk& disk, const Extent& extent);
  NodeRecord record_of(const Node& node) const;
  Result<> check_name(std::string_view name) const;

  BlockAllocator allocator_;
  std::uint64_t node_limit_;
  std::uint64_t data_blocks_ = 0;
  std::uint64_t used_blocks_ = 0;       // taken or mapped
  std::uint64_t releasing_blocks_ = 0;  // freed, not yet free
  std::uint64_t unused_reserve_ = 0;    // sum over the VMs
  std::unordered_map<NodeId, std::unique_ptr<Node>> nodes_;
  Directory* root_ = nullptr;
  NodeId next_id_ = root_id + 1;
  std::unordered_set<Disk*> nameless_;  // held, no name any more
  BlockAllocator::Owner next_owner_ = 1;
  std::vector<BlockAllocator::Owner> free_owners_;
  std::vector<std::byte> log_;
  std::vector<NodeId> dirty_;  // attributes changed, record not yet in the log
  bool log_maps_data_ = false;
  std::vector<Run> freed_;
  bool reuse_before_commit_ = false;
};

std::int64_t now_ns();  // nanoseconds since the epoch

}  // namespace tidepool::pool
