// Which pages of guest memory one writer has written, while somebody wants to know.
//
// A writer marks a range after it has written it. So whoever takes the marks and then
// reads the pages misses nothing: what was written later is marked again.
//
// mark() from any thread; start(), stop() and take() by one at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>

namespace tidepool::virtio {

inline constexpr std::uint64_t guest_page = 4096;  // bytes

class DirtyBitmap {
 public:
  // pages: of guest physical addresses, from 0 on.
  explicit DirtyBitmap(std::uint64_t pages)
      : words_((pages + 63) / 64), bits_(new std::atomic<std::uint64_t>[words_]()) {}

  std::uint64_t words() const { return words_; }

  // The range [address, address + length) lies in guest memory.
  void mark(std::uint64_t address, std::uint64_t length) {
    if (length == 0) return;
    const std::uint64_t last = (address + length - 1) / guest_page;
    for (std::uint64_t page = address / guest_page; page <= last; ++page) {
      const std::uint64_t bit = std::uint64_t{1} << (page % 64);
      std::atomic<std::uint64_t>& word = bits_[page / 64];
      if ((word.load(std::memory_order_relaxed) & bit) == 0) word.fetch_or(bit);
    }
  }

  // Moves the marks into `into` (of words() words), which keeps what it has.
  void take(std::span<std::uint64_t> into) {
    for (std::uint64_t i = 0; i < words_; ++i) {
      if (bits_[i].load(std::memory_order_relaxed) != 0) into[i] |= bits_[i].exchange(0);
    }
  }

 private:
  const std::uint64_t words_;
  const std::unique_ptr<std::atomic<std::uint64_t>[]> bits_;
};

}  // namespace tidepool::virtio
