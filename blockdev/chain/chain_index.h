// The merged view of a chain: for every block the newest layer that holds it.
//
// Pure: no I/O, no lock (the chain's lock guards it). One lookup tells where a
// block is, however deep the chain: depth costs memory, not time.
//
// Each layer has a range of one common slot numbering, so that an extent is 12
// bytes here, too. Blocks that no layer holds belong to the parent that is not a
// layer, or read as zeros.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/result.h"
#include "blockdev/extent_map.h"

namespace tidepool::blockdev::chain {

struct ChainPiece {
  enum class Kind : std::uint8_t { absent, zero, data };
  Kind kind = Kind::absent;
  std::uint64_t block = 0, count = 0;
  std::uint32_t layer = 0;  // data only
  std::uint64_t slot = 0;   // data only: in that layer
};

class ChainIndex {
 public:
  // A number for a layer of which `slots` slots will be used. no_space when the chain is
  // beyond what 40 bits of slots can number.
  Result<std::uint32_t> add_layer(std::uint64_t slots);
  // The layer will use no slot from here on: the rest is another layer's.
  void trim(std::uint32_t layer, std::uint64_t slots) {
    ends_[layer] = bases_[layer] + slots + gap;
  }
  // Nothing in the index is the layer's any more: nor is its number.
  void drop_layer(std::uint32_t layer);
  std::uint32_t layers() const { return static_cast<std::uint32_t>(bases_.size()); }

  // All layers at once, the lowest first: extents[i] are those of layer i, sorted. On
  // an index that holds nothing yet; much faster than put() for each.
  void build(std::span<const std::vector<Extent>> extents);

  // What is now on top of everything else: data in layer `layer`, or zeros.
  void put_data(std::uint32_t layer, std::uint64_t block, std::uint64_t slot, std::uint64_t count);
  void put_zero(std::uint64_t block, std::uint64_t count);
  // Nothing: only right where no other layer holds the blocks.
  void forget(std::uint64_t block, std::uint64_t count);

  // Calls sink(const ChainPiece&) with pieces that cover [begin, end), in order,
  // until it returns false.
  template <class Sink>
  void for_range(std::uint64_t begin, std::uint64_t end, Sink&& sink) const {
    std::uint64_t at = begin;
    bool more = true;
    map_.for_range(begin, end, [&](const Extent& e) {
      if (e.block > at) more = sink(ChainPiece{.block = at, .count = e.block - at});
      if (more) more = sink(piece_of(e));
      at = e.end();
      return more;
    });
    if (more && at < end) sink(ChainPiece{.block = at, .count = end - at});
  }

  std::uint64_t extents() const { return map_.size(); }
  std::uint64_t memory_bytes() const {
    return map_.memory_bytes() + (bases_.capacity() + ends_.capacity()) * sizeof(bases_[0]) +
           by_base_.capacity() * sizeof(by_base_[0]);
  }

 private:
  // Between two layers in the common numbering, so that no extent joins the last slot of
  // one with the first of the other.
  static constexpr std::uint64_t gap = 1;

  ChainPiece piece_of(const Extent& e) const;
  void put(std::uint64_t block, std::uint64_t physical, std::uint64_t count, bool zero);

  ExtentMap map_;                     // physical: in the common numbering; unwritten: zeros
  // By number: the layer's slots in the common numbering, [base, end), gap included.
  std::vector<std::uint64_t> bases_, ends_;
  std::vector<std::uint32_t> by_base_;  // numbers in the order of their bases
};

}  // namespace tidepool::blockdev::chain
