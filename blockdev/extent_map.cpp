#include "blockdev/extent_map.h"

#include <algorithm>
#include <iterator>

namespace tidepool::blockdev {

namespace {

constexpr std::size_t leaf_limit = 128;
constexpr std::size_t leaf_step = 8;     // extents a leaf's memory grows by
constexpr std::size_t leaf_sparse = 48;  // a leaf below this joins a neighbour if both fit

bool joins(const Extent& left, const Extent& right) {
  return left.end() == right.block && left.physical + left.count == right.physical &&
         left.unwritten == right.unwritten && left.count + right.count <= PackedExtent::count_limit;
}

}  // namespace

PackedExtent PackedExtent::pack(const Extent& e) {
  return {static_cast<std::uint32_t>(e.block), static_cast<std::uint32_t>(e.physical),
          static_cast<std::uint32_t>((e.block >> 32) << 24 | (e.physical >> 32) << 16 |
                                     (e.unwritten ? 0x8000u : 0u) | (e.count - 1))};
}

Extent PackedExtent::unpack() const {
  return {block(), physical_low | std::uint64_t{(rest >> 16) & 0xff} << 32, (rest & 0x7fff) + 1,
          (rest & 0x8000) != 0};
}

std::size_t ExtentMap::first_ending_after(const Leaf& leaf, std::uint64_t block) {
  auto it = std::partition_point(leaf.begin(), leaf.end(),
                                 [&](const PackedExtent& e) { return e.end() <= block; });
  return static_cast<std::size_t>(it - leaf.begin());
}

ExtentMap::Leaves::iterator ExtentMap::leaf_for(std::uint64_t block) {
  auto it = leaves_.upper_bound(block);
  return it == leaves_.begin() ? it : std::prev(it);
}

ExtentMap::Leaves::const_iterator ExtentMap::leaf_for(std::uint64_t block) const {
  auto it = leaves_.upper_bound(block);
  return it == leaves_.begin() ? it : std::prev(it);
}

std::optional<Extent> ExtentMap::find(std::uint64_t block) const {
  auto found = find_from(block);
  if (found && found->block > block) found.reset();
  return found;
}

std::optional<Extent> ExtentMap::find_from(std::uint64_t block) const {
  for (auto leaf = leaf_for(block); leaf != leaves_.end(); ++leaf) {
    std::size_t index = first_ending_after(leaf->second, block);
    if (index < leaf->second.size()) return leaf->second[index].unpack();
  }
  return std::nullopt;
}

std::optional<Extent> ExtentMap::find_before(std::uint64_t block) const {
  if (leaves_.empty() || block == 0) return std::nullopt;
  auto leaf = leaf_for(block - 1);
  const Leaf& extents = leaf->second;
  auto it = std::partition_point(extents.begin(), extents.end(),
                                 [&](const PackedExtent& e) { return e.block() < block; });
  if (it != extents.begin()) return std::prev(it)->unpack();
  if (leaf == leaves_.begin()) return std::nullopt;
  return std::prev(leaf)->second.back().unpack();
}

void ExtentMap::put(Leaves::iterator leaf, std::size_t index, const PackedExtent& extent) {
  Leaf& extents = leaf->second;
  if (extents.size() == extents.capacity()) extents.reserve(extents.size() + leaf_step);
  extents.insert(extents.begin() + static_cast<std::ptrdiff_t>(index), extent);
  ++size_;
  if (extents.size() <= leaf_limit) return;
  // Appending is the common case: leave the full leaf full, begin a new one.
  std::size_t keep = index + 1 == extents.size() ? leaf_limit : leaf_limit / 2;
  auto middle = extents.begin() + static_cast<std::ptrdiff_t>(keep);
  Leaf upper(middle, extents.end());
  extents.erase(middle, extents.end());
  extents.shrink_to_fit();
  std::uint64_t key = upper.front().block();
  leaves_.emplace_hint(std::next(leaf), key, std::move(upper));
}

void ExtentMap::insert(const Extent& extent) {
  Extent rest = extent;
  while (rest.count > 0) {
    Extent piece = rest;
    piece.count = std::min(rest.count, PackedExtent::count_limit);
    insert_one(piece);
    rest.block += piece.count;
    rest.physical += piece.count;
    rest.count -= piece.count;
  }
}

// Behind all others, as a map is loaded: its last leaf is at hand.
void ExtentMap::append(const Extent& extent) {
  auto leaf = std::prev(leaves_.end());
  Extent last = leaf->second.back().unpack();
  if (joins(last, extent)) {
    last.count += extent.count;
    leaf->second.back() = PackedExtent::pack(last);
  } else {
    put(leaf, leaf->second.size(), PackedExtent::pack(extent));
  }
}

void ExtentMap::insert_one(const Extent& extent) {
  if (!leaves_.empty() && leaves_.rbegin()->second.back().end() <= extent.block)
    return append(extent);
  Extent joined = extent;
  // Neighbours that join are taken out and the whole is put in: rare enough on
  // the hot path (appending joins only the left one, handled in place below).
  auto right = find_from(extent.end());
  bool join_right = right && right->block == extent.end() && joins(extent, *right);
  if (auto left = find_before(extent.block); left && joins(*left, extent)) {
    if (!join_right || left->count + extent.count + right->count > PackedExtent::count_limit) {
      auto leaf = leaf_for(left->block);
      std::size_t index = first_ending_after(leaf->second, left->block);
      left->count += extent.count;
      leaf->second[index] = PackedExtent::pack(*left);
      return;
    }
    joined = {left->block, left->physical, left->count + extent.count, extent.unwritten};
    remove(left->block, left->end(), [](const Extent&) {});
  }
  if (join_right) {
    remove(right->block, right->end(), [](const Extent&) {});
    joined.count += right->count;
  }
  if (leaves_.empty()) {
    leaves_.emplace(joined.block, Leaf{});
    put(leaves_.begin(), 0, PackedExtent::pack(joined));
    return;
  }
  auto leaf = leaf_for(joined.block);
  if (joined.block < leaf->first) {  // before the first leaf: its key moves down
    put(leaf, 0, PackedExtent::pack(joined));
    rekey(leaf);
    return;
  }
  put(leaf, first_ending_after(leaf->second, joined.block), PackedExtent::pack(joined));
}

void ExtentMap::remove(std::uint64_t begin, std::uint64_t end,
                       const std::function<void(const Extent&)>& sink) {
  if (leaves_.empty() || begin >= end) return;
  const std::uint64_t size_before = size_;
  std::optional<Extent> tail;  // what remains behind `end` of the last extent touched
  auto leaf = leaf_for(begin);
  while (leaf != leaves_.end()) {
    Leaf& extents = leaf->second;
    std::size_t first = first_ending_after(extents, begin);
    std::size_t last = first;
    bool passed_end = false;
    for (; last < extents.size(); ++last) {
      Extent e = extents[last].unpack();
      if (e.block >= end) {
        passed_end = true;
        break;
      }
      std::uint64_t from = std::max(e.block, begin), to = std::min(e.end(), end);
      if (to < e.end()) {
        tail = Extent{to, e.physical + (to - e.block), static_cast<std::uint32_t>(e.end() - to),
                      e.unwritten};
      }
      sink({from, e.physical + (from - e.block), static_cast<std::uint32_t>(to - from), e.unwritten});
      if (from > e.block) {  // the head stays, in place
        Extent head = e;
        head.count = static_cast<std::uint32_t>(from - e.block);
        extents[last] = PackedExtent::pack(head);
        ++first;
      }
    }
    extents.erase(extents.begin() + static_cast<std::ptrdiff_t>(first),
                  extents.begin() + static_cast<std::ptrdiff_t>(last));
    size_ -= last - first;
    if (extents.empty()) {
      leaf = leaves_.erase(leaf);
    } else {
      auto next = std::next(leaf);
      if (leaf->first != extents.front().block()) rekey(leaf);
      leaf = next;
    }
    if (passed_end || tail) break;
  }
  // The leaves between the first and the last one touched are gone.
  if (size_ != size_before && !leaves_.empty()) {
    shrink(leaf_for(begin));
    shrink(leaf_for(end));
  }
  if (tail) insert_one(*tail);
}

// What most random writes come to, at the cost of one search: the range is unmapped, or in one
// extent, and all of its neighbours are in the same leaf and stay apart from it. False:
// nothing was done.
bool ExtentMap::replace_in_leaf(const Extent& extent, std::optional<Extent>& before) {
  if (leaves_.empty()) return false;
  const auto leaf = leaf_for(extent.block);
  Leaf& extents = leaf->second;
  const std::size_t index = first_ending_after(extents, extent.block);
  if (index == 0 || index + 1 >= extents.size() || extents.size() + 2 > leaf_limit) return false;
  const Extent there = extents[index].unpack();
  if (joins(extents[index - 1].unpack(), extent)) return false;
  if (there.block >= extent.end()) {
    if (joins(extent, there)) return false;
    put(leaf, index, PackedExtent::pack(extent));
    return true;
  }
  if (there.block > extent.block || there.end() < extent.end()) return false;
  const auto skipped = static_cast<std::uint32_t>(extent.block - there.block);
  const Extent head{there.block, there.physical, skipped, there.unwritten};
  const Extent tail{extent.end(), there.physical + skipped + extent.count,
                    static_cast<std::uint32_t>(there.end() - extent.end()), there.unwritten};
  const Extent next = tail.count > 0 ? tail : extents[index + 1].unpack();
  if ((head.count > 0 && joins(head, extent)) || joins(extent, next)) return false;
  before = {extent.block, there.physical + skipped, extent.count, there.unwritten};
  extents[index] = PackedExtent::pack(tail.count > 0 ? tail : extent);
  if (tail.count > 0) put(leaf, index, PackedExtent::pack(extent));
  if (head.count > 0) put(leaf, index, PackedExtent::pack(head));
  return true;
}

void ExtentMap::replace(const Extent& extent, const std::function<void(const Extent&)>& sink) {
  if (std::optional<Extent> before; replace_in_leaf(extent, before)) {
    if (before) sink(*before);
    return;
  }
  remove(extent.block, extent.end(), sink);
  insert(extent);
}

void ExtentMap::rekey(Leaves::iterator leaf) {
  auto node = leaves_.extract(leaf);
  node.key() = node.mapped().front().block();
  leaves_.insert(std::move(node));
}

void ExtentMap::shrink(Leaves::iterator leaf) {
  auto fit_together = [](const Leaf& left, const Leaf& right) {
    return left.size() + right.size() <= leaf_limit - 2 * leaf_step;
  };
  auto next = std::next(leaf);
  if (leaf->second.size() < leaf_sparse) {
    if (leaf != leaves_.begin() &&
        (next == leaves_.end() || !fit_together(leaf->second, next->second)))
      next = leaf--;
    if (next != leaves_.end() && fit_together(leaf->second, next->second)) {
      Leaf& extents = leaf->second;
      extents.reserve(extents.size() + next->second.size());
      extents.insert(extents.end(), next->second.begin(), next->second.end());
      leaves_.erase(next);
    }
  }
  if (leaf->second.capacity() > leaf->second.size() + leaf_step) leaf->second.shrink_to_fit();
}

std::uint64_t ExtentMap::memory_bytes() const {
  constexpr std::uint64_t node_bytes = 32 + sizeof(std::pair<const std::uint64_t, Leaf>) + 16;
  std::uint64_t total = 0;
  for (const auto& [key, leaf] : leaves_)
    total += node_bytes + leaf.capacity() * sizeof(PackedExtent);
  return total;
}

}  // namespace tidepool::blockdev
