#include "fs/pool/block_allocator.h"

#include <algorithm>
#include <bit>
#include <cassert>

namespace tidepool::pool {

BlockAllocator::BlockAllocator(std::uint64_t blocks, std::uint32_t blocks_per_chunk)
    : per_chunk_(blocks_per_chunk) {
  grow(blocks);
}

void BlockAllocator::grow(std::uint64_t blocks) {
  assert(blocks >= blocks_);
  std::uint64_t old_blocks = blocks_;
  std::uint64_t chunks = (blocks + per_chunk_ - 1) / per_chunk_;
  std::uint64_t segments = (chunks + chunks_per_segment - 1) / chunks_per_segment;
  // Bits behind the end stay used, so that no scan runs over it.
  used_.resize((blocks + 63) / 64, ~std::uint64_t{0});
  chunk_free_.resize(chunks, 0);
  segment_free_.resize(segments, 0);
  segment_owner_.resize(segments, 0);
  blocks_ = blocks;
  if (blocks > old_blocks) give(old_blocks, blocks - old_blocks);
}

void BlockAllocator::count_chunk(std::uint64_t chunk, std::int64_t delta) {
  bool was_free = chunk_free_[chunk] == per_chunk_;
  chunk_free_[chunk] = static_cast<std::uint32_t>(chunk_free_[chunk] + delta);
  bool is_free = chunk_free_[chunk] == per_chunk_;
  if (was_free == is_free) return;
  int step = is_free ? 1 : -1;
  free_chunks_ = static_cast<std::uint64_t>(static_cast<std::int64_t>(free_chunks_) + step);
  auto& of_segment = segment_free_[chunk / chunks_per_segment];
  of_segment = static_cast<std::uint8_t>(of_segment + step);
}

void BlockAllocator::set_range(std::uint64_t start, std::uint64_t count, bool used) {
  std::uint64_t block = start, end = start + count;
  while (block < end) {  // the bits, a word at a time
    std::uint64_t here = std::min<std::uint64_t>(64 - block % 64, end - block);
    std::uint64_t mask = (here == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << here) - 1)
                         << (block % 64);
    auto& word = used_[block / 64];
    assert((word & mask) == (used ? 0 : mask));
    word = used ? word | mask : word & ~mask;
    block += here;
  }
  for (block = start; block < end;) {  // the counts, a chunk at a time
    std::uint64_t chunk = chunk_of(block);
    std::uint64_t here = std::min((chunk + 1) * per_chunk_, end) - block;
    count_chunk(chunk, used ? -static_cast<std::int64_t>(here) : static_cast<std::int64_t>(here));
    block += here;
  }
  free_blocks_ = used ? free_blocks_ - count : free_blocks_ + count;
}

std::uint64_t BlockAllocator::run_length(std::uint64_t start, std::uint64_t most) const {
  std::uint64_t end = start + std::min(most, blocks_ - start);
  std::uint64_t block = start;
  while (block < end) {
    std::uint64_t word = used_[block / 64] >> (block % 64);
    if (word != 0) return std::min<std::uint64_t>(block + std::countr_zero(word), end) - start;
    block += 64 - block % 64;
  }
  return end - start;
}

bool BlockAllocator::mark_used(std::uint64_t start, std::uint64_t count) {
  if (start >= blocks_ || count > blocks_ - start) return false;
  if (run_length(start, count) < count) return false;
  set_range(start, count, true);
  return true;
}

std::uint64_t BlockAllocator::take(std::uint64_t start, std::uint64_t most) {
  if (start >= blocks_) return 0;
  std::uint64_t count = run_length(start, most);
  if (count > 0) set_range(start, count, true);
  return count;
}

std::optional<Run> BlockAllocator::take_any(std::uint64_t most) {
  if (free_blocks_ == 0) return std::nullopt;
  while (chunk_free_[chunk_cursor_] == 0) chunk_cursor_ = (chunk_cursor_ + 1) % chunk_free_.size();
  std::uint64_t block = chunk_cursor_ * per_chunk_;
  while (bit(block)) {
    std::uint64_t word = used_[block / 64] | ((std::uint64_t{1} << (block % 64)) - 1);
    block = block / 64 * 64 + static_cast<std::uint64_t>(std::countr_one(word));
  }
  Run run{block, run_length(block, most)};
  set_range(run.start, run.count, true);
  return run;
}

void BlockAllocator::give(std::uint64_t start, std::uint64_t count) {
  set_range(start, count, false);
}

BlockAllocator::Claims& BlockAllocator::claims_of(Owner owner) {
  if (owner >= claims_.size()) claims_.resize(owner + 1);
  return claims_[owner];
}

std::optional<std::uint64_t> BlockAllocator::free_chunk_in(std::uint64_t segment) const {
  if (segment == none || segment_free_[segment] == 0) return std::nullopt;
  std::uint64_t chunk = segment * chunks_per_segment;
  while (!chunk_is_free(chunk)) ++chunk;
  return chunk;
}

void BlockAllocator::remember_claim(Owner owner, std::uint64_t segment) {
  Claims& claims = claims_of(owner);
  segment_owner_[segment] = owner;
  claims.recent.push_back(segment);
  if (claims.recent.size() > claims_per_owner) {
    std::uint64_t oldest = claims.recent.front();
    claims.recent.erase(claims.recent.begin());
    if (segment_owner_[oldest] == owner) segment_owner_[oldest] = 0;
  }
}

std::optional<std::uint64_t> BlockAllocator::claim_segment(Owner owner) {
  for (std::size_t i = 0; i < segment_free_.size(); ++i) {
    std::uint64_t segment = (segment_cursor_ + i) % segment_free_.size();
    if (segment_free_[segment] < chunks_per_segment || segment_owner_[segment] != 0) continue;
    segment_cursor_ = (segment + 1) % segment_free_.size();
    remember_claim(owner, segment);
    return segment;
  }
  return std::nullopt;
}

std::optional<std::uint64_t> BlockAllocator::place_chunk(Owner owner,
                                                         std::optional<std::uint64_t> after) {
  if (free_chunks_ == 0) return std::nullopt;
  if (after && chunk_is_free(*after + 1)) {
    std::uint64_t segment = (*after + 1) / chunks_per_segment;
    if (segment_owner_[segment] == owner) return *after + 1;
    if (segment_owner_[segment] == 0) {
      remember_claim(owner, segment);
      return *after + 1;
    }
  }
  if (after) {  // its way is blocked: the stream goes on in a segment of its own
    if (auto segment = claim_segment(owner)) return *segment * chunks_per_segment;
  }
  if (auto chunk = free_chunk_in(claims_of(owner).scatter)) return chunk;
  if (auto segment = claim_segment(owner)) {
    claims_of(owner).scatter = *segment;
    return *segment * chunks_per_segment;
  }
  // No segment is both free and unclaimed: any free chunk will do, unclaimed first.
  std::optional<std::uint64_t> claimed;
  for (std::size_t i = 0; i < segment_free_.size(); ++i) {
    std::uint64_t segment = (segment_cursor_ + i) % segment_free_.size();
    if (segment_free_[segment] == 0) continue;
    if (segment_owner_[segment] == 0 || segment_owner_[segment] == owner) {
      segment_cursor_ = segment;
      return free_chunk_in(segment);
    }
    if (!claimed) claimed = free_chunk_in(segment);
  }
  return claimed;
}

void BlockAllocator::drop_claims(Owner owner) {
  Claims& claims = claims_of(owner);
  for (std::uint64_t segment : claims.recent)
    if (segment_owner_[segment] == owner) segment_owner_[segment] = 0;
  claims = {};
}

}  // namespace tidepool::pool
