// Records into a PoolState, and what must hold of any state that is accepted.
#pragma once

#include <string>
#include <vector>

#include "fs/pool/pool_state.h"
#include "tests/fuzz/target.h"

namespace tidepool::test {

inline pool::PoolState empty_state() {
  pool::PoolState::Layout layout;
  layout.blocks = 4096;
  layout.blocks_per_chunk = 16;
  layout.node_limit = 64;
  layout.metadata = {{0, 100}};
  return pool::PoolState(layout);
}

inline Input snapshot_of(const pool::PoolState& state) {
  Input records;
  state.snapshot(64 * 1024, [&](std::span<const std::byte> piece) {
    records.insert(records.end(), piece.begin(), piece.end());
  });
  return records;
}

// A state that recovery has accepted.
inline void judge_state(pool::PoolState& state) {
  using namespace pool;
  PoolFigures f = state.figures();
  require(f.used_bytes <= f.data_bytes, "no more is used than there is");
  require(f.data_bytes - f.used_bytes == state.allocator().free_blocks() * block_size,
          "what is not used is free");
  // What is written of it gives the same again.
  Input records = snapshot_of(state);
  PoolState copy = empty_state();
  std::vector<std::string> findings, losses;
  require(decode_records(records, copy).has_value(), "a snapshot can be read");
  require(copy.finish_recovery(false, findings, losses).has_value(), "a snapshot is sound");
  require(snapshot_of(copy) == records, "a snapshot of a snapshot is the same");
  // Everything in it can be taken out again.
  for (const auto& [vm_name, vm] : std::map(state.root().children)) {
    for (const auto& [name, disk] : std::map(static_cast<Directory*>(vm)->children))
      require(state.remove(vm->id, name, NodeKind::disk).has_value(), "a disk can be removed");
    require(state.remove(root_id, vm_name, NodeKind::vm).has_value(), "a VM can be removed");
  }
  PoolFigures after = state.figures();
  require(after.used_bytes == 0 && after.releasing_bytes == f.used_bytes, "all space comes back");
  require(after.reserved_bytes == 0, "no promise remains");
}

inline void replay(std::span<const std::byte> records) {
  for (bool tolerant : {false, true}) {
    pool::PoolState state = empty_state();
    bool read = decode_records(records, state).has_value();
    if (!read && !tolerant) continue;  // tolerant: as far as it went
    std::vector<std::string> findings, losses;
    bool sound = state.finish_recovery(tolerant, findings, losses).has_value();
    require(sound || !tolerant, "a tolerant recovery goes to its end");
    if (sound) judge_state(state);
  }
}

// Some records of each type.
inline Input sample_records() {
  using namespace pool;
  PoolState state = empty_state();
  for (const char* vm_name : {"a", "b"}) {
    Node* vm = *state.make(root_id, NodeKind::vm, vm_name, 0700, 1, 2);
    auto& directory = static_cast<Directory&>(*vm);
    (void)state.set_settings(directory, {1 << 20, 1 << 16, Durability::scratch});
    for (const char* name : {"root", "swap", "gone"}) {
      auto& disk = static_cast<Disk&>(**state.make(vm->id, NodeKind::disk, name, 0600, 3, 4));
      std::vector<Extent> extents;
      state.allocate(disk, 5, 20, extents);
      state.allocate(disk, 40, 1, extents);
      for (const Extent& e : extents) state.map_written(disk, e);
      extents.clear();
      state.allocate(disk, 60, 3, extents);
      for (const Extent& e : extents) state.map_provisioned(disk, e);
      state.touch(disk, 1 << 20);
      state.unmap(disk, 8, 10);
    }
    (void)state.remove(vm->id, "gone", NodeKind::disk);
  }
  (void)state.rename(state.root().children.begin()->second->id, "swap", root_id, "b", false);
  return state.take_log().records;
}

}  // namespace tidepool::test
