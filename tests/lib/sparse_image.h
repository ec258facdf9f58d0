// A disk's content in memory: sparse, and cheap to copy.
//
// Copies share their blocks until one of them is written, so that a crash
// harness can keep thousands of images of one disk. Not thread-safe: whoever
// owns an image locks it; copies may go to other threads.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace tidepool::test {

class SparseImage {
 public:
  static constexpr std::size_t block_size = 4096;  // bytes

  explicit SparseImage(std::uint64_t size = 0);

  std::uint64_t size() const { return size_; }
  void set_size(std::uint64_t size);  // growing adds zeros
  // Ranges must lie within the image.
  void read(std::uint64_t offset, std::span<std::byte> out) const;
  void write(std::uint64_t offset, std::span<const std::byte> data);
  void clear(std::uint64_t offset, std::uint64_t length);
  // Bytes in blocks that were written and not cleared as a whole since.
  std::uint64_t allocated_bytes() const;
  bool is_allocated(std::uint64_t offset) const { return blocks_[index_of(offset)] != nullptr; }
  bool operator==(const SparseImage& other) const;  // by content

 private:
  using Block = std::array<std::byte, block_size>;

  static std::size_t index_of(std::uint64_t offset) {
    return static_cast<std::size_t>(offset / block_size);
  }
  Block& writable(std::size_t index);

  std::uint64_t size_ = 0;
  std::vector<std::shared_ptr<Block>> blocks_;  // null: zeros
};

}  // namespace tidepool::test
