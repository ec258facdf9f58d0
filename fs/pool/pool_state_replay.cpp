// PoolState: rebuilt from the records of a checkpoint and a journal.
//
// Until finish_recovery() the maps alone are kept; the accounts and the free
// space follow from them, so they cannot disagree with them.
#include <algorithm>

#include "base/size_text.h"
#include "fs/pool/pool_state.h"

namespace tidepool::pool {

namespace {

std::string double_mapping(const Disk& disk, const Extent& e) {
  return fmt::format(
      "disk '{}/{}': blocks {}..{} are mapped to pool blocks {}..{} that are in use already",
      disk.vm->name, disk.name, e.block, e.end() - 1, e.physical, e.physical + e.count - 1);
}

}  // namespace

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
  auto& map = static_cast<Disk&>(**found).map;
  map.remove(extent.block, extent.end(), [](const Extent&) {});  // true whatever the new one is
  if (extent.end() > PackedExtent::block_limit || extent.physical >= allocator_.blocks() ||
      extent.count > allocator_.blocks() - extent.physical)
    return fail(ErrorKind::corrupt, "disk {}: block {} is mapped outside the pool", id,
                extent.block);
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

void PoolState::drop_mappings(const Pick& pick, std::vector<std::string>& losses) {
  for (const auto& [vm_name, vm] : root_->children) {
    for (const auto& [name, node] : static_cast<Directory*>(vm)->children) {
      auto& map = static_cast<Disk*>(node)->map;
      std::vector<Extent> picked;
      map.for_range(0, PackedExtent::block_limit, [&](const Extent& e) {
        pick(e, picked);
        return true;
      });
      std::uint64_t blocks = 0;
      for (const Extent& e : picked) {
        map.remove(e.block, e.end(), [](const Extent&) {});
        blocks += e.count;
      }
      if (blocks > 0)
        losses.push_back(fmt::format("disk '{}/{}': {}, which read as zeros", vm_name, name,
                                     format_size(blocks * block_size)));
    }
  }
}

void PoolState::drop_data_mappings(std::vector<std::string>& losses) {
  drop_mappings(
      [](const Extent& e, std::vector<Extent>& picked) {
        if (!e.unwritten) picked.push_back(e);
      },
      losses);
}

void PoolState::drop_double_mappings(std::vector<std::string>& findings,
                                     std::vector<std::string>& losses) {
  BlockAllocator seen = allocator_;
  std::vector<Run> contested;
  for (const auto& [id, node] : nodes_) {
    if (node->kind != NodeKind::disk) continue;
    static_cast<Disk&>(*node).map.for_range(0, PackedExtent::block_limit, [&](const Extent& e) {
      if (seen.mark_used(e.physical, e.count)) return true;
      contested.push_back({e.physical, e.count});
      findings.push_back(double_mapping(static_cast<Disk&>(*node), e));
      return true;
    });
  }
  if (contested.empty()) return;
  std::sort(contested.begin(), contested.end(),
            [](const Run& a, const Run& b) { return a.start < b.start; });
  std::vector<Run> merged;
  for (const Run& run : contested) {
    std::uint64_t end = merged.empty() ? 0 : merged.back().start + merged.back().count;
    if (end < run.start || merged.empty())
      merged.push_back(run);
    else
      merged.back().count = std::max(end, run.start + run.count) - merged.back().start;
  }
  // A contested extent goes whole; what shares blocks with it loses these.
  drop_mappings(
      [&](const Extent& e, std::vector<Extent>& picked) {
        std::uint64_t end = e.physical + e.count;
        auto run = std::partition_point(merged.begin(), merged.end(),
                                        [&](const Run& r) { return r.start + r.count <= e.physical; });
        for (; run != merged.end() && run->start < end; ++run) {
          std::uint64_t from = std::max(e.physical, run->start);
          std::uint64_t to = std::min(end, run->start + run->count);
          picked.push_back({e.block + (from - e.physical), from, static_cast<std::uint32_t>(to - from),
                            e.unwritten});
        }
      },
      losses);
}

Result<> PoolState::finish_recovery(bool tolerant, std::vector<std::string>& findings,
                                    std::vector<std::string>& losses) {
  if (tolerant) drop_double_mappings(findings, losses);
  for (auto& [id, node] : nodes_) {
    if (node->kind != NodeKind::disk) continue;
    auto& disk = static_cast<Disk&>(*node);
    std::optional<Extent> twice;
    disk.map.for_range(0, PackedExtent::block_limit, [&](const Extent& e) {
      if (!allocator_.mark_used(e.physical, e.count)) twice = e;
      disk.blocks += e.count;
      return !twice;
    });
    if (twice) return fail(ErrorKind::corrupt, "{}", double_mapping(disk, *twice));
    disk.vm->used_blocks += disk.blocks;
    used_blocks_ += disk.blocks;
  }
  for (const auto& [name, vm] : root_->children)
    unused_reserve_ += static_cast<Directory*>(vm)->unused_reserve();
  return {};
}

}  // namespace tidepool::pool
