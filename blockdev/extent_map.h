// Where a disk's blocks lie in what holds them (a pool, a layer, a chain): a
// sorted map of extents.
//
// Pure: no I/O, no lock (the owner's lock guards it). The map at 4 KiB grain is
// also the validity map: a block that is not in it reads as zeros (or from the
// parent), so a first partial write exposes zeros without zeroing a chunk.
//
// Memory: 12 bytes an extent, in leaves of at most 128 that grow in small steps;
// with leaf and index overhead about 13 to 15 bytes an extent.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <utility>
#include <vector>

namespace tidepool::blockdev {

struct Extent {
  std::uint64_t block = 0;     // first block of the disk, < block_limit
  std::uint64_t physical = 0;  // first block where it lies, < block_limit
  std::uint32_t count = 0;     // blocks
  bool unwritten = false;      // reads as zeros

  std::uint64_t end() const { return block + count; }
  bool operator==(const Extent&) const = default;
};

// An extent as it is stored, in memory and in the formats: 12 bytes.
struct PackedExtent {
  static constexpr std::uint64_t block_limit = std::uint64_t{1} << 40;  // of disk and physical blocks
  static constexpr std::uint32_t count_limit = 1u << 15;                // blocks in one extent

  std::uint32_t block_low = 0;
  std::uint32_t physical_low = 0;
  std::uint32_t rest = 0;  // block high 8 bits, physical high 8 bits, unwritten 1 bit, count - 1

  static PackedExtent pack(const Extent& extent);
  Extent unpack() const;
  std::uint64_t block() const { return block_low | std::uint64_t{rest >> 24} << 32; }
  std::uint64_t end() const { return block() + (rest & 0x7fff) + 1; }
};
static_assert(sizeof(PackedExtent) == 12);

class ExtentMap {
 public:
  // The extent that holds `block`, if any.
  std::optional<Extent> find(std::uint64_t block) const;
  // The first extent that ends after `block` (it may hold it).
  std::optional<Extent> find_from(std::uint64_t block) const;
  // The last extent that begins before `block`.
  std::optional<Extent> find_before(std::uint64_t block) const;

  // Calls sink(const Extent&) with the pieces of extents inside [begin, end), in
  // order, until it returns false.
  template <class Sink>
  void for_range(std::uint64_t begin, std::uint64_t end, Sink&& sink) const;

  // The range must be unmapped. Any count; joins with neighbours.
  void insert(const Extent& extent);
  // As remove() and insert() of the same range, of at most count_limit blocks.
  void replace(const Extent& extent, const std::function<void(const Extent&)>& sink);
  // Unmaps [begin, end) and calls sink with each piece that was mapped.
  void remove(std::uint64_t begin, std::uint64_t end,
              const std::function<void(const Extent&)>& sink);

  std::uint64_t size() const { return size_; }  // extents
  std::uint64_t memory_bytes() const;           // heap, estimated from capacities

 private:
  using Leaf = std::vector<PackedExtent>;
  using Leaves = std::map<std::uint64_t, Leaf>;  // key: first block of the leaf; never empty

  // Index of the first extent in the leaf that ends after `block`.
  bool replace_in_leaf(const Extent& extent, std::optional<Extent>& before);
  static std::size_t first_ending_after(const Leaf& leaf, std::uint64_t block);
  Leaves::iterator leaf_for(std::uint64_t block);
  Leaves::const_iterator leaf_for(std::uint64_t block) const;
  void insert_one(const Extent& extent);
  void append(const Extent& extent);
  void put(Leaves::iterator leaf, std::size_t index, const PackedExtent& extent);
  void rekey(Leaves::iterator leaf);
  void shrink(Leaves::iterator leaf);

  Leaves leaves_;
  std::uint64_t size_ = 0;
};

template <class Sink>
void ExtentMap::for_range(std::uint64_t begin, std::uint64_t end, Sink&& sink) const {
  auto leaf = leaf_for(begin);
  if (leaf == leaves_.end()) return;
  std::size_t index = first_ending_after(leaf->second, begin);
  for (; leaf != leaves_.end(); ++leaf, index = 0) {
    for (; index < leaf->second.size(); ++index) {
      Extent e = leaf->second[index].unpack();
      if (e.block >= end) return;
      std::uint64_t from = std::max(e.block, begin), to = std::min(e.end(), end);
      Extent piece{from, e.physical + (from - e.block), static_cast<std::uint32_t>(to - from),
                   e.unwritten};
      if (!sink(std::as_const(piece))) return;
    }
  }
}

}  // namespace tidepool::blockdev
