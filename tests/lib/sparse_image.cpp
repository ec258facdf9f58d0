#include "tests/lib/sparse_image.h"

#include <algorithm>
#include <cstring>

namespace tidepool::test {

namespace {

// Calls visit(block index, offset in block, length, bytes before) for each
// block that [offset, offset + length) touches.
template <class Visit>
void for_each_block(std::uint64_t offset, std::uint64_t length, Visit&& visit) {
  std::uint64_t before = 0;
  while (before < length) {
    const std::uint64_t at = offset + before;
    const auto within = static_cast<std::size_t>(at % SparseImage::block_size);
    const auto part = static_cast<std::size_t>(
        std::min<std::uint64_t>(SparseImage::block_size - within, length - before));
    visit(static_cast<std::size_t>(at / SparseImage::block_size), within, part,
          static_cast<std::size_t>(before));
    before += part;
  }
}

}  // namespace

SparseImage::SparseImage(std::uint64_t size) { set_size(size); }

void SparseImage::set_size(std::uint64_t size) {
  if (size < size_) {
    // What lies beyond must be zeros when the image grows again.
    const std::uint64_t block_end = (size + block_size - 1) / block_size * block_size;
    clear(size, std::min(block_end, size_) - size);
  }
  size_ = size;
  blocks_.resize(static_cast<std::size_t>((size + block_size - 1) / block_size));
}

SparseImage::Block& SparseImage::writable(std::size_t index) {
  auto& block = blocks_[index];
  if (!block) {
    block = std::make_shared<Block>();
  } else if (block.use_count() > 1) {
    block = std::make_shared<Block>(*block);
  }
  return *block;
}

void SparseImage::read(std::uint64_t offset, std::span<std::byte> out) const {
  for_each_block(offset, out.size(),
                 [&](std::size_t index, std::size_t within, std::size_t part, std::size_t before) {
                   if (const auto& block = blocks_[index]) {
                     std::memcpy(out.data() + before, block->data() + within, part);
                   } else {
                     std::memset(out.data() + before, 0, part);
                   }
                 });
}

void SparseImage::write(std::uint64_t offset, std::span<const std::byte> data) {
  for_each_block(offset, data.size(),
                 [&](std::size_t index, std::size_t within, std::size_t part, std::size_t before) {
                   std::memcpy(writable(index).data() + within, data.data() + before, part);
                 });
}

void SparseImage::clear(std::uint64_t offset, std::uint64_t length) {
  for_each_block(offset, length,
                 [&](std::size_t index, std::size_t within, std::size_t part, std::size_t) {
                   if (part == block_size) {
                     blocks_[index].reset();
                   } else if (blocks_[index]) {
                     std::memset(writable(index).data() + within, 0, part);
                   }
                 });
}

std::uint64_t SparseImage::allocated_bytes() const {
  const auto count =
      std::count_if(blocks_.begin(), blocks_.end(), [](const auto& block) { return !!block; });
  return static_cast<std::uint64_t>(count) * block_size;
}

bool SparseImage::operator==(const SparseImage& other) const {
  if (size_ != other.size_) return false;
  static constexpr Block zeros{};
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    if (blocks_[i] == other.blocks_[i]) continue;
    const Block& mine = blocks_[i] ? *blocks_[i] : zeros;
    const Block& theirs = other.blocks_[i] ? *other.blocks_[i] : zeros;
    if (mine != theirs) return false;
  }
  return true;
}

}  // namespace tidepool::test
