#include "virtio/inflight_notes.h"

#include <algorithm>
#include <atomic>

#include "base/byte_order.h"

namespace tidepool::virtio {

namespace {

// Header: features (8), version, entries, head of the last batch, used index.
constexpr std::size_t version_at = 8, entries_at = 10, batch_at = 12, used_at = 14;
// Entry: in flight (1), padding (5), next of the batch (2), counter (8).
constexpr std::size_t next_at = 6, counter_at = 8;
constexpr std::uint16_t version = 1;

// Stores are seen in their order by who looks after this process has died.
void order() { std::atomic_signal_fence(std::memory_order_seq_cst); }

}  // namespace

std::uint16_t InflightNotes::load16_at(std::size_t offset) const {
  return load_le16(&memory_[offset]);
}
void InflightNotes::store16_at(std::size_t offset, std::uint16_t value) {
  store_le16(&memory_[offset], value);
}

void InflightNotes::set_inflight(std::uint16_t head, std::uint8_t value) {
  memory_[header_bytes + head * entry_bytes] = std::byte{value};
  order();
}

Result<std::vector<std::uint16_t>> InflightNotes::recover(std::uint16_t used) {
  const std::uint16_t found = load16_at(version_at), noted = load16_at(entries_at);
  if (found == 0) {  // nobody has used it
    store16_at(version_at, version);
    store16_at(entries_at, entries_);
    store16_at(used_at, used);
    order();
    return std::vector<std::uint16_t>{};
  }
  if (found != version || noted != entries_) {
    return fail(ErrorKind::unsupported,
                "notes of what is in flight are of version {} for {} entries, not {} for {}", found,
                noted, version, entries_);
  }
  // Answers that were out when their notes were not yet taken back.
  std::uint16_t out =
      std::min<std::uint16_t>(static_cast<std::uint16_t>(used - load16_at(used_at)), entries_);
  for (std::uint16_t head = load16_at(batch_at); out > 0 && head < entries_; --out) {
    set_inflight(head, 0);
    head = load16_at(header_bytes + head * entry_bytes + next_at);
  }
  store16_at(used_at, used);
  std::vector<std::pair<std::uint64_t, std::uint16_t>> left;
  for (std::uint16_t head = 0; head < entries_; ++head) {
    const std::size_t entry = header_bytes + head * entry_bytes;
    const std::uint64_t counter = load_le64(&memory_[entry + counter_at]);
    next_ = std::max(next_, counter + 1);
    if (memory_[entry] != std::byte{0}) left.emplace_back(counter, head);
  }
  std::ranges::sort(left);
  std::vector<std::uint16_t> heads;
  for (const auto& [counter, head] : left) heads.push_back(head);
  return heads;
}

void InflightNotes::took(std::uint16_t head) {
  const std::size_t entry = header_bytes + head * entry_bytes;
  store_le64(&memory_[entry + counter_at], next_++);
  order();
  set_inflight(head, 1);
}

void InflightNotes::giving(std::span<const UsedChain> chains) {
  std::uint16_t last = load16_at(batch_at);
  for (const UsedChain& chain : chains) {
    store16_at(header_bytes + chain.head * entry_bytes + next_at, last);
    last = chain.head;
  }
  order();
  store16_at(batch_at, last);
  order();
}

void InflightNotes::gave(std::span<const UsedChain> chains, std::uint16_t used) {
  order();
  for (const UsedChain& chain : chains) set_inflight(chain.head, 0);
  store16_at(used_at, used);
}

}  // namespace tidepool::virtio
