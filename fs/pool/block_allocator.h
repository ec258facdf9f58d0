// Which blocks of the pool are free, and where the next one should come from.
//
// Pure: no I/O, no lock. Space is counted in 4 KiB blocks; a chunk is the unit
// in which a disk's neighbouring blocks are kept together, a segment (16 chunks)
// the unit in which concurrent streams are kept apart: a stream claims a segment,
// others stay out of it while unclaimed ones are left. Claims steer, they never
// refuse: any free block can be had by anyone, so a pool does not report itself
// full while blocks are free.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace tidepool::pool {

struct Run {
  std::uint64_t start = 0;  // pool block
  std::uint64_t count = 0;  // blocks
};

class BlockAllocator {
 public:
  using Owner = std::uint32_t;  // of a segment claim; 0 = nobody
  static constexpr std::uint64_t chunks_per_segment = 16;

  // All blocks begin free; the caller marks the metadata areas used.
  BlockAllocator(std::uint64_t blocks, std::uint32_t blocks_per_chunk);

  std::uint64_t blocks() const { return blocks_; }
  std::uint64_t free_blocks() const { return free_blocks_; }
  std::uint32_t blocks_per_chunk() const { return per_chunk_; }
  std::uint64_t chunk_of(std::uint64_t block) const { return block / per_chunk_; }

  // Marks a range used; false (nothing changed) when a part of it is used already
  // or outside the pool.
  bool mark_used(std::uint64_t start, std::uint64_t count);
  bool is_free(std::uint64_t block) const { return !bit(block); }
  // Takes the free blocks from `start` on, at most `most`; how many there were.
  std::uint64_t take(std::uint64_t start, std::uint64_t most);
  // Any run of free blocks, at most `most`; nothing only when no block is free.
  std::optional<Run> take_any(std::uint64_t most);
  void give(std::uint64_t start, std::uint64_t count);
  // Calls sink(Run) for each maximal free run.
  template <class Sink>
  void for_free_runs(Sink&& sink) const;

  bool chunk_is_free(std::uint64_t chunk) const {
    return chunk < chunk_free_.size() && chunk_free_[chunk] == per_chunk_;
  }
  // A wholly free chunk for `owner`'s stream. `after`: the pool chunk that holds the
  // preceding part of the stream, if there is one.
  std::optional<std::uint64_t> place_chunk(Owner owner, std::optional<std::uint64_t> after);
  // Ends the claims of an owner (its disk is gone).
  void drop_claims(Owner owner);

  void grow(std::uint64_t blocks);

 private:
  struct Claims {
    std::vector<std::uint64_t> recent;  // segments, most recently claimed last
    std::uint64_t scatter = none;       // segment for chunks that follow nothing
  };
  static constexpr std::uint64_t none = ~std::uint64_t{0};
  static constexpr std::size_t claims_per_owner = 8;

  bool bit(std::uint64_t block) const { return used_[block / 64] >> (block % 64) & 1; }
  void set_range(std::uint64_t start, std::uint64_t count, bool used);
  void count_chunk(std::uint64_t chunk, std::int64_t delta);
  std::uint64_t run_length(std::uint64_t start, std::uint64_t most) const;
  std::optional<std::uint64_t> free_chunk_in(std::uint64_t segment) const;
  std::optional<std::uint64_t> claim_segment(Owner owner);
  void remember_claim(Owner owner, std::uint64_t segment);
  Claims& claims_of(Owner owner);

  std::uint64_t blocks_ = 0;
  std::uint64_t free_blocks_ = 0;
  std::uint32_t per_chunk_ = 0;
  std::vector<std::uint64_t> used_;         // one bit a block
  std::vector<std::uint32_t> chunk_free_;   // free blocks of each chunk
  std::vector<std::uint8_t> segment_free_;  // wholly free chunks of each segment
  std::vector<Owner> segment_owner_;
  std::vector<Claims> claims_;     // by owner
  std::uint64_t free_chunks_ = 0;  // wholly free
  std::uint64_t segment_cursor_ = 0;
  std::uint64_t chunk_cursor_ = 0;
};

template <class Sink>
void BlockAllocator::for_free_runs(Sink&& sink) const {
  std::uint64_t block = 0;
  while (block < blocks_) {
    if (block % 64 == 0 && used_[block / 64] == ~std::uint64_t{0}) {
      block += 64;
      continue;
    }
    if (bit(block)) {
      ++block;
      continue;
    }
    std::uint64_t count = run_length(block, blocks_ - block);
    sink(Run{block, count});
    block += count;
  }
}

}  // namespace tidepool::pool
