// PoolState: who holds which blocks, and who may have more.
#include <algorithm>
#include <cassert>

#include "base/size_text.h"
#include "fs/pool/pool_state.h"

namespace tidepool::pool {

void PoolState::charge(Directory& vm, std::int64_t blocks) {
  unused_reserve_ -= vm.unused_reserve();
  vm.used_blocks = static_cast<std::uint64_t>(static_cast<std::int64_t>(vm.used_blocks) + blocks);
  unused_reserve_ += vm.unused_reserve();
  used_blocks_ = static_cast<std::uint64_t>(static_cast<std::int64_t>(used_blocks_) + blocks);
}

Admission PoolState::admit(const Directory& vm, std::uint64_t blocks) const {
  if (vm.settings.quota != 0 && vm.used_blocks + blocks > vm.settings.quota / block_size)
    return Admission::no_space;
  std::uint64_t taken = used_blocks_ + (unused_reserve_ - vm.unused_reserve());
  if (taken + blocks > data_blocks_) return Admission::no_space;
  return blocks > allocator_.free_blocks() ? Admission::wait : Admission::granted;
}

std::optional<Run> PoolState::take_for(Disk& disk, std::uint64_t block, std::uint64_t most) {
  const std::uint64_t per_chunk = allocator_.blocks_per_chunk();
  const std::uint64_t disk_chunk = block / per_chunk, offset = block % per_chunk;
  const std::uint64_t piece = std::min(most, per_chunk - offset);
  auto try_at = [&](std::uint64_t pool_block) -> std::optional<Run> {
    std::uint64_t count = allocator_.take(pool_block, piece);
    return count > 0 ? std::optional(Run{pool_block, count}) : std::nullopt;
  };

  // The same chunk of the disk goes into the same chunk of the pool, in place.
  if (auto chunk = disk.placement(disk_chunk))
    if (auto run = try_at(*chunk * per_chunk + offset)) return run;
  auto left = disk.map.find_before(block);
  if (left && (left->end() - 1) / per_chunk == disk_chunk)
    if (auto run = try_at(left->physical + (block - left->block))) return run;
  auto right = disk.map.find_from(block);
  if (right && right->block / per_chunk == disk_chunk && right->physical >= right->block - block)
    if (auto run = try_at(right->physical - (right->block - block))) return run;

  // A new chunk, behind the one that holds the preceding part of the disk.
  std::optional<std::uint64_t> after;
  if (disk_chunk > 0) {
    after = disk.placement(disk_chunk - 1);
    if (!after && left && (left->end() - 1) / per_chunk == disk_chunk - 1)
      after = allocator_.chunk_of(left->physical + left->count - 1);
  }
  if (auto chunk = allocator_.place_chunk(disk.owner, after)) {
    disk.placements[disk.next_placement] = {disk_chunk, *chunk};
    disk.next_placement = (disk.next_placement + 1) % disk.placements.size();
    if (auto run = try_at(*chunk * per_chunk + offset)) return run;
  }
  // No free chunk is left: whatever is free, at best what follows the preceding block.
  if (left && left->end() == block)
    if (auto run = try_at(left->physical + left->count)) return run;
  return allocator_.take_any(piece);
}

void PoolState::allocate(Disk& disk, std::uint64_t block, std::uint64_t count,
                         std::vector<Extent>& out) {
  charge(*disk.vm, static_cast<std::int64_t>(count));
  disk.blocks += count;
  while (count > 0) {
    auto run = take_for(disk, block, count);
    assert(run);  // admit() granted it
    out.push_back({block, run->start, static_cast<std::uint32_t>(run->count), false});
    block += run->count;
    count -= run->count;
  }
}

void PoolState::abandon(Disk& disk, const Extent& extent) {
  allocator_.give(extent.physical, extent.count);
  disk.blocks -= extent.count;
  charge(*disk.vm, -static_cast<std::int64_t>(extent.count));
}

void PoolState::free_run(const Run& run) {
  if (reuse_before_commit_) {
    allocator_.give(run.start, run.count);
    return;
  }
  releasing_blocks_ += run.count;
  if (!freed_.empty() && freed_.back().start + freed_.back().count == run.start)
    freed_.back().count += run.count;
  else
    freed_.push_back(run);
}

void PoolState::give_released(const Run& run) {
  releasing_blocks_ -= run.count;
  allocator_.give(run.start, run.count);
}

void PoolState::join_across_free_gaps(std::vector<Run>& runs, std::uint64_t most) {
  std::size_t kept = 0;
  for (const Run& run : runs) {
    if (kept > 0) {
      Run& last = runs[kept - 1];
      std::uint64_t end = last.start + last.count, gap = run.start - end;
      bool joined = gap == 0 || (gap <= most && allocator_.mark_used(end, gap));
      if (joined) {
        releasing_blocks_ += gap;
        last.count += gap + run.count;
        continue;
      }
    }
    runs[kept++] = run;
  }
  runs.resize(kept);
}

void PoolState::quarantine(const Run& run) {
  std::uint64_t taken = allocator_.take(run.start, run.count);
  assert(taken == run.count);
  releasing_blocks_ += taken;
  freed_.push_back({run.start, taken});
}

void PoolState::log_map(const Disk& disk, const Extent& extent) {
  if (!disk.parent) return;  // its name is gone, and with it its records
  Extent rest = extent;
  while (rest.count > 0) {
    Extent piece = rest;
    piece.count = std::min(rest.count, PackedExtent::count_limit);
    PackedExtent packed = PackedExtent::pack(piece);
    encode_map(log_, disk.id, {&packed, 1});
    rest.block += piece.count;
    rest.physical += piece.count;
    rest.count -= piece.count;
  }
  if (!extent.unwritten) log_maps_data_ = true;
}

void PoolState::map_written(Disk& disk, const Extent& extent) {
  disk.map.remove(extent.block, extent.end(), [&](const Extent& old) {
    assert(old.physical - old.block == extent.physical - extent.block);  // provisioned: the same blocks
    (void)old;
  });
  Extent written = extent;
  written.unwritten = false;
  disk.map.insert(written);
  log_map(disk, written);
}

void PoolState::map_provisioned(Disk& disk, const Extent& extent) {
  Extent provisioned = extent;
  provisioned.unwritten = true;
  disk.map.insert(provisioned);
  log_map(disk, provisioned);
}

void PoolState::unmap(Disk& disk, std::uint64_t begin, std::uint64_t end) {
  std::uint64_t blocks = 0;
  disk.map.remove(begin, end, [&](const Extent& e) {
    free_run({e.physical, e.count});
    blocks += e.count;
  });
  if (blocks == 0) return;
  disk.blocks -= blocks;
  charge(*disk.vm, -static_cast<std::int64_t>(blocks));
  if (disk.parent) encode_unmap(log_, disk.id, begin, end - begin);
}

void PoolState::map_as_zero(Disk& disk, std::uint64_t begin, std::uint64_t end) {
  std::vector<Extent> pieces;
  disk.map.remove(begin, end, [&](const Extent& e) { pieces.push_back(e); });
  for (const Extent& e : pieces) map_provisioned(disk, e);
}

SpaceFigures PoolState::space(const Directory& directory) const {
  std::uint64_t promised = unused_reserve_ - directory.unused_reserve();
  std::uint64_t taken = std::min(used_blocks_ + promised, data_blocks_);
  SpaceFigures s;
  s.available = (data_blocks_ - taken) * block_size;
  s.total = data_blocks_ * block_size;
  if (directory.kind == NodeKind::root) {
    s.used = used_blocks_ * block_size;
    return s;
  }
  s.used = directory.used_blocks * block_size;
  if (std::uint64_t quota = directory.settings.quota / block_size * block_size; quota != 0) {
    s.total = std::min(s.total, quota);
    s.available = std::min(s.available, quota > s.used ? quota - s.used : 0);
  }
  return s;
}

Result<> PoolState::set_settings(Directory& vm, const VmSettings& settings) {
  if (settings.quota != 0 && settings.reserve > settings.quota)
    return fail(ErrorKind::invalid_argument,
                "VM '{}': a reserve of {} is more than its quota of {}", vm.name,
                format_size_exactly(settings.reserve), format_size_exactly(settings.quota));
  if (settings.quota != 0 && settings.quota < block_size)
    return fail(ErrorKind::invalid_argument, "VM '{}': a quota is {} at least", vm.name,
                format_size_exactly(block_size));
  std::uint64_t others = unused_reserve_ - vm.unused_reserve();
  std::uint64_t free = data_blocks_ - std::min(used_blocks_ + others, data_blocks_);
  VmSettings before = std::exchange(vm.settings, settings);
  if (vm.unused_reserve() > free) {
    std::uint64_t wanted = vm.unused_reserve();
    vm.settings = before;
    return fail(ErrorKind::no_space,
                "VM '{}': cannot reserve {} more, the pool can promise {}: grow the pool or lower "
                "another reserve",
                vm.name, format_size_exactly(wanted * block_size),
                format_size_exactly(free * block_size));
  }
  unused_reserve_ = others + vm.unused_reserve();
  vm.times.change = now_ns();
  mark_dirty(vm);
  return {};
}

void PoolState::grow(std::uint64_t blocks, std::vector<Run> new_metadata) {
  data_blocks_ += blocks - allocator_.blocks();
  allocator_.grow(blocks);
  for (const Run& run : new_metadata) {
    allocator_.mark_used(run.start, run.count);
    data_blocks_ -= run.count;
  }
}

void PoolState::give_back_metadata(const Run& run) {
  data_blocks_ += run.count;
  releasing_blocks_ += run.count;
  freed_.push_back(run);  // it holds old metadata: released like anything else
}

PoolFigures PoolState::figures() const {
  PoolFigures f;
  f.pool_bytes = allocator_.blocks() * block_size;
  f.data_bytes = data_blocks_ * block_size;
  f.metadata_bytes = f.pool_bytes - f.data_bytes;
  f.used_bytes = used_blocks_ * block_size;
  f.releasing_bytes = releasing_blocks_ * block_size;
  f.reserved_bytes = unused_reserve_ * block_size;
  f.chunk_bytes = allocator_.blocks_per_chunk() * block_size;
  for (const auto& [id, node] : nodes_) {
    if (node->kind == NodeKind::vm) ++f.vms;
    if (node->kind != NodeKind::disk) continue;
    const Disk& disk = static_cast<const Disk&>(*node);
    ++f.disks;
    f.disk_bytes += disk.size;
    f.extents += disk.map.size();
    f.map_memory_bytes += disk.map.memory_bytes();
  }
  return f;
}

}  // namespace tidepool::pool
