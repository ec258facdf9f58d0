// Which slots of a layer are free: a bit each, and a bit for each 64 of them.
//
// Taking and giving back take the same short time however scattered the free slots
// are, which a map of extents would not: after random overwrites nearly every free
// slot stands alone.
//
// Pure: no I/O, no lock (the chain's lock guards it). Memory: a little more than one
// bit for each slot below the highest one that was ever given back.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

namespace tidepool::blockdev::chain {

struct SlotRun {
  std::uint64_t slot = 0, count = 0;
  bool discarded = false;  // not because something else was written in its place
};

class SlotBitmap {
 public:
  std::uint64_t size() const { return size_; }  // free slots

  // The slots are not free yet.
  void add(const SlotRun& run) {
    const std::uint64_t words = (run.slot + run.count + 63) / 64;
    if (words > words_.size()) {
      words_.resize(words);
      summary_.resize((words + 63) / 64);
    }
    for_words(run, [&](std::uint64_t word, std::uint64_t mask) {
      words_[word] |= mask;
      summary_[word / 64] |= std::uint64_t{1} << word % 64;
    });
    size_ += run.count;
  }

  // The slots are free.
  void remove(const SlotRun& run) {
    for_words(run, [&](std::uint64_t word, std::uint64_t mask) {
      words_[word] &= ~mask;
      if (words_[word] == 0) summary_[word / 64] &= ~(std::uint64_t{1} << word % 64);
    });
    size_ -= run.count;
  }

  // The first free slot from `slot` on and those behind it, at most `most`; a count of 0
  // where there is none.
  SlotRun find(std::uint64_t slot, std::uint64_t most) const {
    const std::uint64_t first = next(slot);
    SlotRun run{first, 0};
    for (std::uint64_t word = first / 64; word < words_.size() && run.count < most; ++word) {
      const std::uint64_t at = (first + run.count) % 64;
      const auto ones = static_cast<std::uint64_t>(std::countr_one(words_[word] >> at));
      run.count += ones;
      if (at + ones < 64) break;
    }
    run.count = std::min(run.count, most);
    return run;
  }

  std::uint64_t memory_bytes() const {
    return (words_.capacity() + summary_.capacity()) * sizeof(std::uint64_t);
  }

 private:
  template <class Work>
  static void for_words(const SlotRun& run, Work&& work) {
    for (std::uint64_t at = run.slot, end = run.slot + run.count; at < end;) {
      const std::uint64_t n = std::min(64 - at % 64, end - at);
      work(at / 64, (n == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1) << at % 64);
      at += n;
    }
  }

  // The first free slot from `slot` on; beyond all words where there is none.
  std::uint64_t next(std::uint64_t slot) const {
    std::uint64_t word = slot / 64;
    if (word >= words_.size()) return words_.size() * 64;
    if (const std::uint64_t rest = words_[word] >> slot % 64; rest != 0)
      return slot + static_cast<unsigned>(std::countr_zero(rest));
    ++word;
    std::uint64_t group = word / 64;
    if (group >= summary_.size()) return words_.size() * 64;
    std::uint64_t rest = summary_[group] >> word % 64 << word % 64;
    while (rest == 0 && ++group < summary_.size()) rest = summary_[group];
    if (rest == 0) return words_.size() * 64;
    word = group * 64 + static_cast<unsigned>(std::countr_zero(rest));
    return word * 64 + static_cast<unsigned>(std::countr_zero(words_[word]));
  }

  std::vector<std::uint64_t> words_;
  std::vector<std::uint64_t> summary_;  // bit i: words_[i] is not 0
  std::uint64_t size_ = 0;
};

}  // namespace tidepool::blockdev::chain
