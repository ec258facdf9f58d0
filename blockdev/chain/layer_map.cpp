#include "blockdev/chain/layer_map.h"

#include <algorithm>
#include <span>
#include <utility>

namespace tidepool::blockdev::chain {

namespace {

// A record's count has 24 bits; and no batch of the journal need hold more of one.
constexpr std::uint64_t record_most = 1u << 15;
// Large requests go to fresh slots rather than into many small holes.
constexpr std::uint64_t large_request = 16;
// Shorter runs are reused rather than punched: a system call for each costs more.
constexpr std::uint64_t least_punch = 4;
// What is being punched cannot be written meanwhile, so not too much at once.
constexpr std::uint64_t most_punch = 1024;
constexpr std::size_t released_at_once = 4096;  // runs

}  // namespace

HashTable::Sector& HashTable::make_sector(std::uint64_t number) {
  if (number >= sectors_.size()) sectors_.resize(number + 1);
  auto& sector = sectors_[number];
  if (!sector) {
    sector = std::make_unique<Sector>();
    ++loaded_;
  }
  return *sector;
}

void HashTable::load(std::uint64_t sector, const HashSector& hashes) {
  if (!has(sector)) make_sector(sector).hashes = hashes;
}

std::optional<std::uint64_t> HashTable::find(std::uint64_t slot) const {
  const std::uint64_t number = slot / hashes_per_sector;
  if (!has(number)) return std::nullopt;
  return sectors_[number]->hashes[slot % hashes_per_sector];
}

void HashTable::set(std::uint64_t slot, std::uint64_t hash) {
  Sector& sector = make_sector(slot / hashes_per_sector);
  sector.hashes[slot % hashes_per_sector] = hash;
  sector.changed = true;
}

std::uint64_t HashTable::memory_bytes() const {
  constexpr std::uint64_t heap_overhead = 8;  // of each sector's allocation
  return sectors_.capacity() * sizeof(void*) + loaded_ * (sizeof(Sector) + heap_overhead);
}

// --- reading ---

void LayerMap::replay(const LayerRecord& record) {
  extents_.remove(record.block, record.block + record.count, [](const Extent&) {});
  const auto insert = [&](std::uint64_t physical, bool unwritten) {
    std::uint64_t block = record.block, left = record.count;
    while (left > 0) {
      const auto count =
          static_cast<std::uint32_t>(std::min<std::uint64_t>(left, PackedExtent::count_limit));
      extents_.insert({block, physical, count, unwritten});
      block += count;
      physical += count;
      left -= count;
    }
  };
  switch (record.kind) {
    case LayerRecord::Kind::map:
      insert(record.slot, false);
      for (std::uint64_t i = 0; i < record.count; ++i)
        hashes_.set(record.slot + i, record.hashes[i]);
      break;
    case LayerRecord::Kind::zero:
      insert(record.block, true);
      break;
    case LayerRecord::Kind::forget:
      break;
  }
}

void LayerMap::loaded() {
  to_punch_.clear();
  to_punch_blocks_ = 0;
  std::vector<SlotRun> used;
  used.reserve(extents_.size());
  extents_.for_range(0, PackedExtent::block_limit, [&](const Extent& e) {
    if (!e.unwritten) used.push_back({e.physical, e.count});
    return true;
  });
  std::sort(used.begin(), used.end(),
            [](const SlotRun& a, const SlotRun& b) { return a.slot < b.slot; });
  free_ = {};
  high_water_ = unlisted_free_ = 0;
  for (const SlotRun& run : used) {
    if (run.slot > high_water_) {
      const std::uint64_t begin = high_water_;
      high_water_ = run.slot;
      const SlotRun gap{begin, run.slot - begin};
      if (gap.count >= least_punch) {
        punch_later(gap);
      } else {
        free_.add(gap);
      }
    }
    high_water_ = std::max(high_water_, run.slot + run.count);
  }
}

void LayerMap::loaded_to_read() {
  std::uint64_t used = 0;
  high_water_ = 0;
  extents_.for_range(0, PackedExtent::block_limit, [&](const Extent& e) {
    if (e.unwritten) return true;
    used += e.count;
    high_water_ = std::max(high_water_, e.physical + e.count);
    return true;
  });
  unlisted_free_ = high_water_ - used;
}

// --- changing ---

bool LayerMap::take(std::uint64_t count, std::vector<SlotRun>& runs) {
  const std::uint64_t fresh = slots_ - high_water_;
  if (count > fresh + free_.size()) {  // no time to punch
    for (const SlotRun& run : std::exchange(to_punch_, {})) punched(run);
  }
  if (count > fresh + free_.size()) return false;
  const auto take_fresh = [&](std::uint64_t n) {
    runs.push_back({high_water_, n});
    high_water_ += n;
  };
  // What was freed comes first, so that the file grows no larger than it must.
  if (free_.size() < count || (count >= large_request && fresh >= count)) {
    if (free_.find(cursor_, count).count < count) {
      const std::uint64_t now = std::min(count, fresh);
      if (now > 0) take_fresh(now);
      count -= now;
    }
  }
  while (count > 0) {
    const SlotRun run = free_.find(cursor_, count);
    cursor_ = run.slot + run.count;
    if (run.count == 0) {
      cursor_ = 0;
      continue;
    }
    free_.remove(run);
    runs.push_back(run);
    count -= run.count;
  }
  return true;
}

void LayerMap::give_back(const SlotRun& run) { free_.add(run); }

void LayerMap::freed(const Extent& e, bool discarded) {
  if (e.unwritten) return;
  if (reuse_at_once_) return free_.add({e.physical, e.count});
  freed_.push_back({e.physical, e.count, discarded});
  freed_blocks_ += e.count;
}

void LayerMap::unmap(std::uint64_t block, std::uint64_t count) {
  extents_.remove(block, block + count, [&](const Extent& e) { freed(e, true); });
}

void LayerMap::map(std::uint64_t block, const SlotRun& run, const std::uint64_t* hashes) {
  SlotRun left = run;
  while (left.count > 0) {
    const std::uint64_t n = std::min(left.count, record_most);
    extents_.replace({block, left.slot, static_cast<std::uint32_t>(n), false},
                     [&](const Extent& e) { freed(e, false); });
    for (std::uint64_t i = 0; i < n; ++i) hashes_.set(left.slot + i, hashes[i]);
    append(records_, {LayerRecord::Kind::map, block, n, left.slot, {hashes, n}});
    block += n;
    hashes += n;
    left.slot += n;
    left.count -= n;
  }
}

void LayerMap::zero(std::uint64_t block, std::uint64_t count) {
  unmap(block, count);
  append(records_, {.kind = LayerRecord::Kind::zero, .block = block, .count = count});
  while (count > 0) {
    const auto n =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(count, PackedExtent::count_limit));
    extents_.insert({block, block, n, true});
    block += n;
    count -= n;
  }
}

void LayerMap::forget(std::uint64_t block, std::uint64_t count) {
  unmap(block, count);
  append(records_, {.kind = LayerRecord::Kind::forget, .block = block, .count = count});
}

std::vector<std::byte> LayerMap::begin_commit() {
  committing_.swap(freed_);
  freed_blocks_ = 0;
  return std::exchange(records_, {});
}

bool LayerMap::committed() {
  const std::size_t left = committing_.size() - std::min(committing_.size(), released_at_once);
  for (std::size_t i = left; i < committing_.size(); ++i) {
    const SlotRun& run = committing_[i];
    if (run.discarded) {
      punch_later(run);
    } else {
      free_.add(run);
    }
  }
  committing_.resize(left);
  return left == 0;
}

void LayerMap::punch_later(const SlotRun& run) {
  to_punch_blocks_ += run.count;
  if (!to_punch_.empty() && to_punch_.back().slot + to_punch_.back().count == run.slot) {
    to_punch_.back().count += run.count;
  } else {
    to_punch_.push_back(run);
  }
}

void LayerMap::punched(const SlotRun& run) {
  to_punch_blocks_ -= run.count;
  free_.add(run);
}

bool LayerMap::take_to_punch(SlotRun& run) {
  while (!to_punch_.empty()) {
    SlotRun& last = to_punch_.back();
    if (last.count < least_punch) {
      punched(last);
      to_punch_.pop_back();
      continue;
    }
    run = {last.slot, std::min(last.count, most_punch)};
    last.slot += run.count;
    last.count -= run.count;
    if (last.count == 0) to_punch_.pop_back();
    return true;
  }
  return false;
}

std::uint64_t LayerMap::memory_bytes() const {
  return extents_.memory_bytes() + free_.memory_bytes() + hashes_.memory_bytes() +
         (freed_.capacity() + committing_.capacity() + to_punch_.capacity()) * sizeof(SlotRun) +
         records_.capacity();
}

}  // namespace tidepool::blockdev::chain
