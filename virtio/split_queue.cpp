#include "virtio/split_queue.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/checked.h"
#include "virtio/inflight_notes.h"

namespace tidepool::virtio {

namespace {

constexpr std::uint64_t descriptor_bytes = 16;
constexpr std::uint64_t ring_header_bytes = 4;  // flags, index
constexpr std::uint64_t available_entry_bytes = 2;
constexpr std::uint64_t used_entry_bytes = 8;
constexpr std::uint64_t event_bytes = 2;

// Section 2.7: the kernel's header of these is not C++.
constexpr std::uint16_t flag_next = 1, flag_write = 2, flag_indirect = 4;  // of a descriptor
constexpr std::uint16_t no_interrupt = 1;                                  // of the available ring
constexpr std::uint16_t no_notify = 1;                                     // of the used ring

constexpr std::uint64_t flags_offset = 0, index_offset = 2;

std::uint16_t load16(const std::byte* from, std::memory_order order) {
  return std::atomic_ref(*reinterpret_cast<std::uint16_t*>(const_cast<std::byte*>(from)))
      .load(order);
}
void store16(std::byte* to, std::uint16_t value, std::memory_order order) {
  std::atomic_ref(*reinterpret_cast<std::uint16_t*>(to)).store(value, order);
}

// Section 2.7.10: whether `event` lies in (old, now].
bool passed(std::uint16_t event, std::uint16_t now, std::uint16_t old) {
  return static_cast<std::uint16_t>(now - event - 1) < static_cast<std::uint16_t>(now - old);
}

}  // namespace

Result<SplitQueue> SplitQueue::create(MemoryWriter& writer, const QueueLayout& layout,
                                      bool event_index, QueuePosition position) {
  const std::uint64_t size = layout.size;
  if (!is_power_of_two(size) || size > most_queue_entries) {
    return fail(ErrorKind::invalid_argument, "{}: a queue of {} entries", writer.name(), size);
  }
  const GuestMemory& memory = writer.memory();
  const std::uint64_t event = event_index ? event_bytes : 0;
  std::byte* const descriptors = memory.at(layout.descriptors, size * descriptor_bytes);
  std::byte* const available =
      memory.at(layout.available, ring_header_bytes + size * available_entry_bytes + event);
  std::byte* const used =
      memory.at(layout.used, ring_header_bytes + size * used_entry_bytes + event);
  const bool aligned =
      layout.descriptors % 16 == 0 && layout.available % 2 == 0 && layout.used % 4 == 0;
  if (descriptors == nullptr || available == nullptr || used == nullptr || !aligned) {
    return fail(ErrorKind::invalid_argument,
                "{}: the queue at {:#x}, {:#x}, {:#x} is not aligned or not in guest memory",
                writer.name(), layout.descriptors, layout.available, layout.used);
  }
  return SplitQueue(writer, layout, event_index, position, descriptors, available, used);
}

SplitQueue::SplitQueue(MemoryWriter& writer, const QueueLayout& layout, bool event_index,
                       QueuePosition position, std::byte* descriptors, std::byte* available,
                       std::byte* used)
    : writer_(&writer),
      layout_(layout),
      event_index_(event_index),
      descriptors_(descriptors),
      available_(available),
      used_(used),
      next_available_(position.next_available),
      next_used_(position.next_used),
      last_signalled_(position.next_used) {}

PopResult SplitQueue::broken(std::string why) {
  fault_ = std::move(why);
  return PopResult::broken;
}

PopResult SplitQueue::pop(Chain& chain) {
  if (!fault_.empty()) return PopResult::broken;
  if (left_taken_ < left_.size()) {
    if (!collect_from(chain, left_[left_taken_])) return PopResult::broken;
    ++left_taken_;
    return PopResult::chain;
  }
  const std::uint16_t index = load16(available_ + index_offset, std::memory_order_acquire);
  const auto waiting = static_cast<std::uint16_t>(index - next_available_);
  if (waiting == 0) return PopResult::empty;
  if (waiting > layout_.size) {
    return broken(
        fmt::format("the available index went {} on in a queue of {}", waiting, layout_.size));
  }
  const std::uint64_t slot = next_available_ & (layout_.size - 1U);
  const std::uint16_t head = load16(available_ + ring_header_bytes + slot * available_entry_bytes,
                                    std::memory_order_relaxed);
  if (head >= layout_.size) {
    return broken(fmt::format("descriptor {} in a queue of {}", head, layout_.size));
  }
  if (!collect_from(chain, head)) return PopResult::broken;
  ++next_available_;
  ++popped_;
  if (notes_ != nullptr) notes_->took(head);
  return PopResult::chain;
}

bool SplitQueue::collect_from(Chain& chain, std::uint16_t head) {
  chain.head = head;
  chain.readable = chain.writable = 0;
  chain.readable_bytes = chain.writable_bytes = 0;
  return collect(chain, descriptors_, layout_.size, head, false);
}

void SplitQueue::put_back(std::span<const UsedChain> chains) {
  // What was left came first.
  const std::size_t again = std::min<std::uint64_t>(chains.size(), popped_);
  const std::size_t from_left = chains.size() - again;
  left_taken_ -= from_left;
  popped_ -= again;
  next_available_ = static_cast<std::uint16_t>(next_available_ - again);
  if (notes_ == nullptr) return;
  for (const UsedChain& chain : chains.subspan(from_left)) notes_->put_back(chain.head);
}

bool SplitQueue::collect(Chain& chain, const std::byte* table, std::uint32_t entries,
                         std::uint32_t index, bool indirect) {
  for (std::uint32_t hops = 0;; ++hops) {
    if (hops == entries) return broken("a chain of descriptors without end"), false;
    Descriptor d;
    std::memcpy(&d, table + index * descriptor_bytes, sizeof d);
    // From here on the copy counts: the compiler must not read the original again.
    asm volatile("" : "+m"(d));
    if ((d.flags & flag_indirect) != 0) {
      const bool allowed = !indirect && (d.flags & flag_next) == 0;
      const std::byte* const inner = writer_->memory().at(d.address, d.length);
      if (!allowed || inner == nullptr || d.length % descriptor_bytes != 0) {
        return broken(fmt::format("an indirect table of {} bytes at {:#x} is not allowed or not in "
                                  "guest memory",
                                  d.length, d.address)),
               false;
      }
      return collect(chain, inner, static_cast<std::uint32_t>(d.length / descriptor_bytes), 0,
                     true);
    }
    if (!append(chain, d)) return false;
    if ((d.flags & flag_next) == 0) return true;
    if (d.next >= entries) {
      return broken(fmt::format("descriptor {} in a table of {}", d.next, entries)), false;
    }
    index = d.next;
  }
}

bool SplitQueue::append(Chain& chain, const Descriptor& d) {
  const bool writable = (d.flags & flag_write) != 0;
  if (!writable && chain.writable > 0) {
    return broken("a piece to read comes after one to write"), false;
  }
  std::uint64_t address = d.address, left = d.length;
  // A piece that lies across two regions is two here.
  while (left > 0) {
    std::uint64_t length = left;
    std::byte* const host = writer_->memory().longest_at(address, length);
    if (host == nullptr) {
      return broken(fmt::format("a piece of {} bytes at {:#x} is not in guest memory", d.length,
                                d.address)),
             false;
    }
    const unsigned count = chain.readable + chain.writable;
    if (count == Chain::most_segments) {
      return broken(fmt::format("a chain of more than {} pieces", Chain::most_segments)), false;
    }
    chain.segments[count] = {host, length};
    (writable ? chain.writable : chain.readable) += 1;
    (writable ? chain.writable_bytes : chain.readable_bytes) += length;
    address += length;
    left -= length;
  }
  return true;
}

void SplitQueue::push(const Chain& chain, std::uint32_t written) {
  std::uint64_t left = written;
  for (unsigned i = 0; i < chain.writable && left > 0; ++i) {
    const iovec& piece = chain.segments[chain.readable + i];
    const std::uint64_t length = std::min<std::uint64_t>(left, piece.iov_len);
    writer_->wrote(static_cast<const std::byte*>(piece.iov_base), length);
    left -= length;
  }
  const UsedChain used{chain.head, written};
  push_all({&used, 1});
}

void SplitQueue::push_all(std::span<const UsedChain> chains) {
  if (notes_ != nullptr) notes_->giving(chains);
  for (const UsedChain& chain : chains) {
    const std::uint64_t slot = next_used_ & (layout_.size - 1U);
    const std::uint64_t offset = ring_header_bytes + slot * used_entry_bytes;
    const std::uint32_t entry[2] = {chain.head, chain.written};
    std::memcpy(used_ + offset, entry, sizeof entry);
    writer_->wrote(layout_.used + offset, sizeof entry);
    ++next_used_;
  }
  store16(used_ + index_offset, next_used_, std::memory_order_release);
  writer_->wrote(layout_.used + index_offset, sizeof next_used_);
  if (notes_ != nullptr) notes_->gave(chains, next_used_);
}

bool SplitQueue::wants_interrupt() {
  // The used index must be out before the driver's wish is read: else both wait.
  full_barrier();
  if (!event_index_) {
    const auto flags = load16(available_ + flags_offset, std::memory_order_relaxed);
    return (flags & no_interrupt) == 0;
  }
  const std::uint16_t event =
      load16(available_ + ring_header_bytes + layout_.size * available_entry_bytes,
             std::memory_order_relaxed);
  const std::uint16_t old = last_signalled_;
  last_signalled_ = next_used_;
  if (!signalled_) {
    signalled_ = true;
    return true;
  }
  return passed(event, next_used_, old);
}

void SplitQueue::publish16(std::uint64_t offset_in_used, std::uint16_t value) {
  store16(used_ + offset_in_used, value, std::memory_order_relaxed);
  writer_->wrote(layout_.used + offset_in_used, sizeof value);
}

bool SplitQueue::has_more(std::uint16_t known) const {
  return load16(available_ + index_offset, std::memory_order_acquire) !=
         static_cast<std::uint16_t>(next_available_ + known);
}

bool SplitQueue::enable_kicks(std::uint16_t known) {
  const auto seen = static_cast<std::uint16_t>(next_available_ + known);
  if (event_index_) {
    publish16(ring_header_bytes + layout_.size * used_entry_bytes, seen);
  } else {
    publish16(flags_offset, 0);
  }
  // A chain that came before the driver saw this is seen here.
  full_barrier();
  return has_more(known);
}

void SplitQueue::disable_kicks() {
  if (!event_index_) publish16(flags_offset, no_notify);
}

}  // namespace tidepool::virtio
