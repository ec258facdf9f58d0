#include "blockdev/stores/known_holes.h"

#include <algorithm>
#include <iterator>

namespace tidepool::blockdev {

void KnownHoles::add(Ranges& ranges, std::uint64_t begin, std::uint64_t end) {
  auto next = ranges.upper_bound(begin);
  if (next != ranges.begin() && std::prev(next)->second >= begin) --next;
  while (next != ranges.end() && next->first <= end) {
    begin = std::min(begin, next->first);
    end = std::max(end, next->second);
    next = ranges.erase(next);
  }
  ranges.emplace_hint(next, begin, end);
}

void KnownHoles::cut(Ranges& ranges, std::uint64_t begin, std::uint64_t end) {
  auto next = ranges.upper_bound(begin);
  if (next != ranges.begin() && std::prev(next)->second > begin) --next;
  while (next != ranges.end() && next->first < end) {
    const auto [first, last] = *next;
    next = ranges.erase(next);
    if (first < begin) ranges.emplace(first, begin);
    if (last > end) ranges.emplace(end, last);
  }
}

void KnownHoles::discarding(const void* key, std::uint64_t begin, std::uint64_t end) {
  under_way_[key].emplace(begin, end);
}

void KnownHoles::discarded(const void* key, bool well) {
  const auto found = under_way_.find(key);
  if (found == under_way_.end()) return;
  if (well) {
    for (const auto& [begin, end] : found->second)
      if (holes_.size() < most) add(holes_, begin, end);
  }
  under_way_.erase(found);
}

void KnownHoles::written(std::uint64_t begin, std::uint64_t end) {
  cut(holes_, begin, end);
  while (holes_.size() > most) holes_.erase(std::prev(holes_.end()));
  for (auto& [key, ranges] : under_way_) cut(ranges, begin, end);
}

void KnownHoles::each(std::uint64_t begin, std::uint64_t end,
                      const std::function<bool(std::uint64_t, std::uint64_t, bool)>& sink) const {
  auto next = holes_.upper_bound(begin);
  if (next != holes_.begin() && std::prev(next)->second > begin) --next;
  while (begin < end) {
    const bool hole = next != holes_.end() && next->first <= begin;
    std::uint64_t to = end;
    if (hole) {
      to = std::min(end, next->second);
      ++next;
    } else if (next != holes_.end()) {
      to = std::min(end, next->first);
    }
    if (!sink(begin, to, hole)) return;
    begin = to;
  }
}

}  // namespace tidepool::blockdev
