// What one layer holds: which blocks, in which slots, with which hashes; and for
// the active layer, which slots are free.
//
// Pure: no I/O, no lock (the chain's lock guards it).
//
// The life of a slot in an active layer, which no crash can make map it twice or
// lose what was flushed:
//
//   free -- take() -- being written -- map() -- mapped -- overwritten, zeroed or
//     ^                                                   forgotten
//     |                                                      |
//     +--- committed() --- its batch is stable <-------------+
//     +--- punched() <--- and discarded: take_to_punch() <---+
//
// Memory: about 13 bytes an extent, a bit a slot, 8 bytes a slot in use for its hash (a sealed
// layer's are loaded as they are needed, and only counted then).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "blockdev/chain/layer_format.h"
#include "blockdev/chain/slot_bitmap.h"
#include "blockdev/extent_map.h"

namespace tidepool::blockdev::chain {

// Hashes by slot, in the sectors of the file. Absent ones are not loaded yet.
class HashTable {
 public:
  struct Sector {
    HashSector hashes{};
    bool changed = false;  // since it was last read or taken
  };
  bool has(std::uint64_t sector) const { return sector < sectors_.size() && sectors_[sector]; }
  void load(std::uint64_t sector, const HashSector& hashes);  // a sector that is there stays
  std::optional<std::uint64_t> find(std::uint64_t slot) const;
  void set(std::uint64_t slot, std::uint64_t hash);
  // The changed sectors from `first` on, at most `most`, which count as unchanged
  // afterwards: sink(number, hashes). Where to go on; sectors() at the end.
  template <class Sink>
  std::uint64_t take_changed(std::uint64_t first, std::uint64_t most, Sink&& sink) {
    for (; first < sectors_.size() && most > 0; ++first, --most) {
      Sector* const sector = sectors_[first].get();
      if (!sector || !sector->changed) continue;
      sector->changed = false;
      sink(first, std::as_const(sector->hashes));
    }
    return first;
  }
  std::uint64_t sectors() const { return sectors_.size(); }
  std::uint64_t memory_bytes() const;

 private:
  Sector& make_sector(std::uint64_t number);
  std::vector<std::unique_ptr<Sector>> sectors_;
  std::uint64_t loaded_ = 0;
};

class LayerMap {
 public:
  explicit LayerMap(std::uint64_t slots) : slots_(slots) {}

  // --- a layer that is read from its file ---

  void load(const Extent& extent) { extents_.insert(extent); }
  void replay(const LayerRecord& record);
  // After the last load or replay: every slot that no extent holds is free.
  void loaded();
  // The same for a layer that is only read: how many slots are free, not which.
  void loaded_to_read();

  // --- changes (an active layer) ---

  // Slots for `count` blocks, appended to `runs` in the order of the blocks.
  // False, and nothing taken: none are left until a commit.
  bool take(std::uint64_t count, std::vector<SlotRun>& runs);
  void give_back(const SlotRun& run);  // taken, and not mapped
  // `hashes`: one per block.
  void map(std::uint64_t block, const SlotRun& run, const std::uint64_t* hashes);
  void zero(std::uint64_t block, std::uint64_t count);
  void forget(std::uint64_t block, std::uint64_t count);

  // --- commit ---

  bool has_changes() const { return !records_.empty(); }
  // The records since the last call. What they free is free once committed() says
  // that they are stable.
  std::vector<std::byte> begin_commit();
  // Some thousand runs of slots a call, so that nobody waits long for the lock: to be
  // called until it returns true, before the next begin_commit().
  bool committed();
  std::uint64_t freed_slots() const { return freed_blocks_; }  // waiting for a commit

  // Slots that are to be punched on the host before they are free: what was
  // discarded, and in a file just opened all that was free. False: none are.
  bool take_to_punch(SlotRun& run);
  void punched(const SlotRun& run);

  // For a test that must go red: freed slots are free at once.
  void sabotage_reuse() { reuse_at_once_ = true; }

  // --- figures and content ---

  const ExtentMap& extents() const { return extents_; }
  HashTable& hashes() { return hashes_; }
  const HashTable& hashes() const { return hashes_; }
  std::uint64_t slots() const { return slots_; }
  std::uint64_t slots_used() const { return high_water_ - free_.size() - unlisted_free_ - to_punch_blocks_; }
  std::uint64_t high_water() const { return high_water_; }  // slots below it were in use
  std::uint64_t memory_bytes() const;

 private:
  void unmap(std::uint64_t block, std::uint64_t count);
  void freed(const Extent& extent, bool discarded);
  void punch_later(const SlotRun& run);

  const std::uint64_t slots_;
  ExtentMap extents_;  // block -> slot; unwritten: zeros (physical = block, so that they join)
  SlotBitmap free_;    // below high_water_
  HashTable hashes_;
  std::uint64_t high_water_ = 0;
  std::uint64_t unlisted_free_ = 0;  // of a layer that is only read
  std::uint64_t cursor_ = 0;  // where the search for free slots goes on
  std::vector<SlotRun> freed_, committing_;
  std::vector<SlotRun> to_punch_;
  std::uint64_t to_punch_blocks_ = 0;  // with what is being punched
  std::uint64_t freed_blocks_ = 0;
  std::vector<std::byte> records_;
  bool reuse_at_once_ = false;
};

}  // namespace tidepool::blockdev::chain
