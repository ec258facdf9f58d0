// PoolState: rebuilt from the records of a checkpoint and a journal.
//
// Until finish_recovery() the maps alone are kept; the accounts and the free
// space follow from them, so they cannot disagree with them.
#include "fs/pool/pool_state.h"

namespace tidepool::pool {

Result<> PoolState::node(const NodeRecord& record) {
  Directory* parent = nullptr;
  if (record.kind != NodeKind::root) {
    auto found = find_directory(record.parent);
    bool fits =
        found && (*found)->kind == (record.kind == NodeKind::vm ? NodeKind::root : NodeKind::vm);
    if (!fits)
      return fail(ErrorKind::corrupt, "node {} ('{}') lies in {}, which cannot hold it", record.id,
                  record.name, record.parent);
    parent = *found;
  }
  auto existing = nodes_.find(record.id);
  if (existing != nodes_.end() && existing->second->kind != record.kind)
    return fail(ErrorKind::corrupt, "node {} changes its kind", record.id);
  if (existing == nodes_.end() && nodes_.size() > node_limit_)
    return fail(ErrorKind::corrupt, "more than {} VMs and disks", node_limit_);
  if (parent) {
    auto namesake = parent->children.find(record.name);
    if (namesake != parent->children.end() && namesake->second->id != record.id) {
      if (auto r = remove(namesake->second->id); !r) return r;
    }
  }
  Node& node = existing != nodes_.end() ? *existing->second : add(record.kind, record.id);
  if (node.parent) static_cast<Directory*>(node.parent)->children.erase(node.name);
  node.parent = parent;
  node.name = record.name;
  node.mode = record.mode;
  node.uid = record.uid;
  node.gid = record.gid;
  node.times = record.times;
  if (parent) parent->children.emplace(node.name, &node);
  if (node.kind == NodeKind::disk) {
    auto& disk = static_cast<Disk&>(node);
    disk.size = record.size;
    disk.vm = parent;
  } else if (node.kind == NodeKind::vm) {
    static_cast<Directory&>(node).settings = record.settings;
  }
  return {};
}

Result<> PoolState::remove(NodeId id) {
  auto found = find(id);
  if (!found || id == root_id) return fail(ErrorKind::corrupt, "an unknown node {} is removed", id);
  Node& node = **found;
  if (node.kind == NodeKind::vm && !static_cast<Directory&>(node).children.empty())
    return fail(ErrorKind::corrupt, "VM {} is removed with disks in it", id);
  static_cast<Directory*>(node.parent)->children.erase(node.name);
  nodes_.erase(id);
  return {};
}

Result<> PoolState::map(NodeId id, const Extent& extent) {
  auto found = find(id);
  if (!found || (*found)->kind != NodeKind::disk)
    return fail(ErrorKind::corrupt, "a mapping names disk {}, which there is not", id);
  if (extent.end() > PackedExtent::block_limit || extent.pool >= allocator_.blocks() ||
      extent.count > allocator_.blocks() - extent.pool)
    return fail(ErrorKind::corrupt, "disk {}: block {} is mapped outside the pool", id,
                extent.block);
  auto& map = static_cast<Disk&>(**found).map;
  map.remove(extent.block, extent.end(), [](const Extent&) {});
  map.insert(extent);
  return {};
}

Result<> PoolState::unmap(NodeId id, std::uint64_t block, std::uint64_t count) {
  auto found = find(id);
  if (!found || (*found)->kind != NodeKind::disk)
    return fail(ErrorKind::corrupt, "an un-mapping names disk {}, which there is not", id);
  static_cast<Disk&>(**found).map.remove(block, block + count, [](const Extent&) {});
  return {};
}

Result<> PoolState::finish_recovery(bool tolerant, std::vector<std::string>& findings) {
  for (auto& [id, node] : nodes_) {
    if (node->kind != NodeKind::disk) continue;
    auto& disk = static_cast<Disk&>(*node);
    std::vector<Extent> bad;
    disk.map.for_range(0, PackedExtent::block_limit, [&](const Extent& e) {
      if (!allocator_.mark_used(e.pool, e.count)) bad.push_back(e);
      return true;
    });
    for (const Extent& e : bad) {
      std::string what = fmt::format(
          "disk '{}/{}': blocks {}..{} are mapped to pool blocks {}..{} that are in use already",
          disk.vm->name, disk.name, e.block, e.end() - 1, e.pool, e.pool + e.count - 1);
      if (!tolerant) return fail(ErrorKind::corrupt, "{}", what);
      findings.push_back(what);
      disk.map.remove(e.block, e.end(), [](const Extent&) {});
    }
    disk.map.for_range(0, PackedExtent::block_limit, [&](const Extent& e) {
      disk.blocks += e.count;
      return true;
    });
    disk.vm->used_blocks += disk.blocks;
    used_blocks_ += disk.blocks;
  }
  for (const auto& [name, vm] : root_->children)
    unused_reserve_ += static_cast<Directory*>(vm)->unused_reserve();
  return {};
}

}  // namespace tidepool::pool
