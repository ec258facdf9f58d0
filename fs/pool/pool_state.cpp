#include "fs/pool/pool_state.h"

#include <sys/stat.h>

#include <ctime>

namespace tidepool::pool {

namespace {

constexpr std::uint32_t root_mode = 0755;

Disk* as_disk(Node* node) { return static_cast<Disk*>(node); }
Directory* as_directory(Node* node) { return static_cast<Directory*>(node); }

}  // namespace

std::int64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME_COARSE, &now);
  return now.tv_sec * std::int64_t{1'000'000'000} + now.tv_nsec;
}

std::optional<std::uint64_t> Disk::placement(std::uint64_t disk_chunk) const {
  for (const Placement& p : placements)
    if (p.disk_chunk == disk_chunk) return p.pool_chunk;
  return std::nullopt;
}

PoolState::PoolState(const Layout& layout)
    : allocator_(layout.blocks, layout.blocks_per_chunk), node_limit_(layout.node_limit) {
  data_blocks_ = layout.blocks;
  for (const Run& run : layout.metadata) {
    allocator_.mark_used(run.start, run.count);
    data_blocks_ -= run.count;
  }
  root_ = as_directory(&add(NodeKind::root, root_id));
  root_->mode = root_mode;
  std::int64_t now = now_ns();
  root_->times = {now, now, now, now};
}

// --- nodes ---

Node& PoolState::add(NodeKind kind, NodeId id) {
  std::unique_ptr<Node> node;
  if (kind == NodeKind::disk) {
    auto disk = std::make_unique<Disk>();
    if (free_owners_.empty()) {
      disk->owner = next_owner_++;
    } else {
      disk->owner = free_owners_.back();
      free_owners_.pop_back();
    }
    node = std::move(disk);
  } else {
    node = std::make_unique<Directory>();
  }
  node->id = id;
  node->kind = kind;
  next_id_ = std::max(next_id_, id + 1);
  return *(nodes_[id] = std::move(node));
}

void PoolState::mark_dirty(Node& node) {
  if (node.dirty) return;
  node.dirty = true;
  dirty_.push_back(node.id);
}

void PoolState::touch_directory(Directory& directory) {
  directory.times.modify = directory.times.change = now_ns();
  mark_dirty(directory);
}

Result<Node*> PoolState::find(NodeId id) const {
  auto it = nodes_.find(id);
  if (it == nodes_.end()) return fail(ErrorKind::not_found, "the pool has no node {}", id);
  return it->second.get();
}

Result<Directory*> PoolState::find_directory(NodeId id) const {
  auto node = find(id);
  if (!node) return std::unexpected(node.error());
  if ((*node)->kind == NodeKind::disk)
    return std::unexpected(
        Error{ErrorKind::invalid_argument, ENOTDIR, fmt::format("'{}' is a disk", (*node)->name)});
  return as_directory(*node);
}

Result<Node*> PoolState::lookup(NodeId parent, std::string_view name) const {
  auto directory = find_directory(parent);
  if (!directory) return std::unexpected(directory.error());
  if (name.size() > name_limit) return std::unexpected(check_name(name).error());
  auto it = (*directory)->children.find(name);
  if (it == (*directory)->children.end())
    return fail(ErrorKind::not_found, "no '{}' in {}", name,
                parent == root_id ? "the pool" : (*directory)->name);
  return it->second;
}

Attributes PoolState::attributes(const Node& node) const {
  Attributes a;
  a.id = node.id;
  a.parent = node.parent ? node.parent->id : (node.kind == NodeKind::root ? root_id : 0);
  a.kind = node.kind;
  a.mode = node.mode;
  a.uid = node.uid;
  a.gid = node.gid;
  a.times = node.times;
  if (node.kind == NodeKind::disk) {
    const auto& disk = static_cast<const Disk&>(node);
    a.size = disk.size;
    a.allocated_bytes = disk.blocks * block_size;
  } else {
    const auto& directory = static_cast<const Directory&>(node);
    a.children = static_cast<std::uint32_t>(directory.children.size());
    a.allocated_bytes =
        (node.kind == NodeKind::root ? used_blocks_ : directory.used_blocks) * block_size;
  }
  return a;
}

Result<> PoolState::check_name(std::string_view name) const {
  if (name.size() > name_limit)
    return std::unexpected(Error{ErrorKind::invalid_argument, ENAMETOOLONG,
                                 fmt::format("a name may have {} bytes at most", name_limit)});
  if (name.empty() || name == "." || name == ".." || name.find('/') != name.npos ||
      name.find('\0') != name.npos)
    return fail(ErrorKind::invalid_argument, "'{}' cannot be a name", name);
  return {};
}

Result<Node*> PoolState::make(NodeId parent, NodeKind kind, std::string_view name,
                              std::uint32_t mode, std::uint32_t uid, std::uint32_t gid) {
  if (auto r = check_name(name); !r) return std::unexpected(r.error());
  auto directory = find_directory(parent);
  if (!directory) return std::unexpected(directory.error());
  if ((*directory)->children.contains(name))
    return fail(ErrorKind::exists, "'{}' exists already", name);
  if (((*directory)->kind == NodeKind::root) != (kind == NodeKind::vm))
    return fail(ErrorKind::permission,
                "'{}': the root holds a directory per VM, a VM's directory holds its disks", name);
  if (nodes_.size() > node_limit_)
    return fail(ErrorKind::no_space, "the pool holds {} VMs and disks at most: delete some",
                node_limit_);
  Node& node = add(kind, next_id_);
  node.parent = *directory;
  node.name = name;
  node.mode = mode;
  node.uid = uid;
  bool inherits_group = ((*directory)->mode & S_ISGID) != 0;
  node.gid = inherits_group ? (*directory)->gid : gid;
  std::int64_t now = now_ns();
  node.times = {now, now, now, now};
  if (kind == NodeKind::disk) as_disk(&node)->vm = *directory;
  (*directory)->children.emplace(node.name, &node);
  touch_directory(**directory);
  encode_node(log_, record_of(node));
  return &node;
}

void PoolState::detach(Disk& disk) {
  disk.parent = nullptr;
  disk.times.change = now_ns();
  if (disk.holds > 0)
    nameless_.insert(&disk);
  else
    free_disk(disk);
}

void PoolState::free_disk(Disk& disk) {
  disk.map.remove(0, PackedExtent::block_limit, [&](const Extent& e) {
    free_run({e.physical, e.count});
  });
  charge(*disk.vm, -static_cast<std::int64_t>(disk.blocks));
  allocator_.drop_claims(disk.owner);
  free_owners_.push_back(disk.owner);
  nameless_.erase(&disk);
  NodeId id = disk.id;
  nodes_.erase(id);
}

Result<> PoolState::remove(NodeId parent, std::string_view name, NodeKind kind) {
  auto found = lookup(parent, name);
  if (!found) return std::unexpected(found.error());
  Node* node = *found;
  if (node->kind != kind)
    return std::unexpected(
        Error{ErrorKind::invalid_argument, kind == NodeKind::disk ? EISDIR : ENOTDIR,
              fmt::format("'{}' is {}", name, kind == NodeKind::disk ? "a VM" : "a disk")});
  if (kind == NodeKind::vm && !as_directory(node)->children.empty())
    return std::unexpected(
        Error{ErrorKind::busy, ENOTEMPTY, fmt::format("VM '{}' still has disks", name)});
  Directory* directory = as_directory(node->parent);
  directory->children.erase(node->name);
  touch_directory(*directory);
  encode_remove(log_, node->id);
  if (kind == NodeKind::disk) {
    detach(*as_disk(node));
    return {};
  }
  for (Disk* orphan : nameless_) {  // their account goes with the VM: the pool's own takes over
    if (orphan->vm != node) continue;
    charge(*orphan->vm, -static_cast<std::int64_t>(orphan->blocks));
    orphan->vm = root_;
    charge(*root_, static_cast<std::int64_t>(orphan->blocks));
  }
  unused_reserve_ -= as_directory(node)->unused_reserve();
  NodeId id = node->id;
  nodes_.erase(id);
  return {};
}

Result<> PoolState::rename(NodeId from_parent, std::string_view from_name, NodeId to_parent,
                           std::string_view to_name, bool no_replace) {
  auto found = lookup(from_parent, from_name);
  if (!found) return std::unexpected(found.error());
  if (auto r = check_name(to_name); !r) return r;
  auto to_directory = find_directory(to_parent);
  if (!to_directory) return std::unexpected(to_directory.error());
  Node* node = *found;
  Directory& from = *as_directory(node->parent);
  Directory& to = **to_directory;
  if ((to.kind == NodeKind::root) != (node->kind == NodeKind::vm))
    return fail(ErrorKind::permission, "'{}' cannot move between the root and a VM", from_name);
  auto target = to.children.find(to_name);
  if (target != to.children.end()) {
    if (no_replace) return fail(ErrorKind::exists, "'{}' exists already", to_name);
    if (target->second == node) return {};
    if (node->kind == NodeKind::vm && !as_directory(target->second)->children.empty())
      return std::unexpected(
          Error{ErrorKind::busy, ENOTEMPTY, fmt::format("VM '{}' still has disks", to_name)});
  }
  if (node->kind == NodeKind::disk && &from != &to) {
    Disk& disk = *as_disk(node);
    if (to.settings.quota != 0 && (to.used_blocks + disk.blocks) * block_size > to.settings.quota)
      return std::unexpected(
          Error{ErrorKind::no_space, EDQUOT,
                fmt::format("'{}' does not fit into the quota of VM '{}'", from_name, to.name)});
    // What it leaves unused of its VM's reserve is promised anew: the pool must have it.
    auto unused = [](const Directory& vm, std::uint64_t used) {
      return vm.reserve_blocks() - std::min(used, vm.reserve_blocks());
    };
    std::uint64_t before = from.unused_reserve() + to.unused_reserve();
    std::uint64_t after =
        unused(from, from.used_blocks - disk.blocks) + unused(to, to.used_blocks + disk.blocks);
    if (after > before && used_blocks_ + unused_reserve_ + (after - before) > data_blocks_)
      return fail(ErrorKind::no_space,
                  "'{}' cannot leave VM '{}': the pool has no space for the reserve it would no "
                  "longer fill; lower the reserve",
                  from_name, from.name);
  }
  if (target != to.children.end()) {
    NodeKind kind = target->second->kind;
    if (auto r = remove(to_parent, to_name, kind); !r) return r;
  }
  from.children.erase(node->name);
  node->name = to_name;
  node->parent = &to;
  node->times.change = now_ns();
  to.children.emplace(node->name, node);
  if (node->kind == NodeKind::disk && &from != &to) {
    Disk& disk = *as_disk(node);
    charge(from, -static_cast<std::int64_t>(disk.blocks));
    charge(to, static_cast<std::int64_t>(disk.blocks));
    disk.vm = &to;
  }
  touch_directory(from);
  touch_directory(to);
  encode_node(log_, record_of(*node));
  return {};
}

void PoolState::change(Node& node, const AttributeChanges& changes) {
  if (changes.mode) node.mode = *changes.mode & 07777;
  if (changes.uid) node.uid = *changes.uid;
  if (changes.gid) node.gid = *changes.gid;
  if (changes.access) node.times.access = *changes.access;
  if (changes.modify) node.times.modify = *changes.modify;
  node.times.change = now_ns();
  mark_dirty(node);
}

Result<Disk*> PoolState::hold(NodeId id) {
  auto node = find(id);
  if (!node) return std::unexpected(node.error());
  if ((*node)->kind != NodeKind::disk)
    return std::unexpected(Error{ErrorKind::invalid_argument, EISDIR,
                                 fmt::format("'{}' is not a disk", (*node)->name)});
  ++as_disk(*node)->holds;
  return as_disk(*node);
}

void PoolState::release(Disk& disk) {
  if (--disk.holds == 0 && !disk.parent) free_disk(disk);
}

void PoolState::set_size(Disk& disk, std::uint64_t size) {
  disk.size = size;
  disk.times.modify = disk.times.change = now_ns();
  mark_dirty(disk);
}

void PoolState::touch(Disk& disk, std::uint64_t end) {
  disk.size = std::max(disk.size, end);
  disk.times.modify = disk.times.change = now_ns();
  mark_dirty(disk);
}

// --- records ---

NodeRecord PoolState::record_of(const Node& node) const {
  NodeRecord r;
  r.id = node.id;
  r.parent = node.parent ? node.parent->id : 0;
  r.kind = node.kind;
  r.mode = node.mode;
  r.uid = node.uid;
  r.gid = node.gid;
  r.times = node.times;
  r.name = node.name;
  if (node.kind == NodeKind::disk)
    r.size = static_cast<const Disk&>(node).size;
  else
    r.settings = static_cast<const Directory&>(node).settings;
  return r;
}

PoolState::Log PoolState::take_log() {
  for (NodeId id : dirty_) {
    auto it = nodes_.find(id);
    if (it == nodes_.end()) continue;
    Node& node = *it->second;
    node.dirty = false;
    if (node.parent || node.kind == NodeKind::root) encode_node(log_, record_of(node));
  }
  dirty_.clear();
  return {std::exchange(log_, {}), std::exchange(log_maps_data_, false)};
}

void PoolState::snapshot(std::size_t piece_bytes,
                         const std::function<void(std::span<const std::byte>)>& sink) const {
  std::vector<std::byte> piece, record;
  piece.reserve(piece_bytes);
  auto put = [&] {
    if (piece.size() + record.size() > piece_bytes) {
      sink(piece);
      piece.clear();
    }
    piece.insert(piece.end(), record.begin(), record.end());
    record.clear();
  };
  auto put_node = [&](const Node& node) {
    encode_node(record, record_of(node));
    put();
  };
  put_node(*root_);
  for (const auto& [vm_name, vm] : root_->children) put_node(*vm);
  std::vector<PackedExtent> extents;
  for (const auto& [vm_name, vm] : root_->children) {
    for (const auto& [name, node] : as_directory(vm)->children) {
      put_node(*node);
      const Disk& disk = *as_disk(node);
      auto put_extents = [&] {
        if (extents.empty()) return;
        encode_map(record, disk.id, extents);
        put();
        extents.clear();
      };
      disk.map.for_range(0, PackedExtent::block_limit, [&](const Extent& e) {
        // A map record fills the rest of its piece exactly.
        if (piece.size() + map_record_bytes(extents.size() + 1) > piece_bytes) {
          put_extents();
          if (piece.size() + map_record_bytes(1) > piece_bytes) {
            sink(piece);
            piece.clear();
          }
        }
        extents.push_back(PackedExtent::pack(e));
        return true;
      });
      put_extents();
    }
  }
  if (!piece.empty()) sink(piece);
}

}  // namespace tidepool::pool
