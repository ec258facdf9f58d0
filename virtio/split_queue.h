// A split virtqueue over guest memory, from the device's side (Virtual I/O Device
// 1.2, section 2.7), with indirect descriptors and event indexes.
//
// The driver is not trusted. Each descriptor is copied out once, then checked, then
// used. What breaks the rules makes the queue broken: pop() says so from then on and
// fault() says why. No chain has more than Chain::most_segments pieces, so that a
// loop ends; lengths are summed in 64 bits.
//
// One thread at a time.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "virtio/guest_memory.h"

namespace tidepool::virtio {

inline constexpr std::uint16_t most_queue_entries = 1024;

struct QueueLayout {
  std::uint16_t size = 0;         // entries: a power of two, at most most_queue_entries
  std::uint64_t descriptors = 0;  // guest addresses
  std::uint64_t available = 0;
  std::uint64_t used = 0;
};

// How far a queue has come; what is to be kept when it moves elsewhere.
struct QueuePosition {
  std::uint16_t next_available = 0;
  std::uint16_t next_used = 0;
};

// What the driver offers with one entry: the pieces that the device reads, then those
// that it writes. They are in guest memory, and may change at any time.
struct Chain {
  static constexpr unsigned most_segments = 128;
  std::uint16_t head = 0;
  unsigned readable = 0, writable = 0;  // pieces
  std::uint64_t readable_bytes = 0, writable_bytes = 0;
  std::array<iovec, most_segments> segments;
};

// A chain on its way back, of which the device wrote so many bytes.
struct UsedChain {
  std::uint16_t head = 0;
  std::uint32_t written = 0;
};

class InflightNotes;

enum class PopResult { empty, chain, broken };

class SplitQueue {
 public:
  // The writer outlives the queue. Refuses a layout that breaks the rules or does
  // not lie in guest memory.
  static Result<SplitQueue> create(MemoryWriter& writer, const QueueLayout& layout,
                                   bool event_index, QueuePosition position);
  // Notes what is taken, and begins with what was left. The notes outlive the queue.
  void keep_notes(InflightNotes& notes, std::vector<std::uint16_t> left) {
    notes_ = &notes;
    left_ = std::move(left);
  }

  // The next chain that the driver made available.
  PopResult pop(Chain& chain);
  // Gives a chain back, of which the device wrote the first `written` bytes of
  // chain.segments' writable pieces.
  void push(const Chain& chain, std::uint32_t written);
  // The same for several at once: the driver sees all of them or none. What was written
  // to their pieces was marked already.
  void push_all(std::span<const UsedChain> chains);
  // The last chains that pop() gave, none of which was pushed, come again.
  void put_back(std::span<const UsedChain> chains);
  // Whether the driver wants to hear of what was pushed since it was last asked.
  bool wants_interrupt();

  // Whether there is more than `known` chains that pop() would find.
  bool has_more(std::uint16_t known) const;

  // Whether the driver shall tell of new chains. After enable_kicks() says true there
  // are some that came before it heard: pop() is due. `known` chains are there already,
  // and not enough.
  bool enable_kicks(std::uint16_t known = 0);
  void disable_kicks();

  QueuePosition position() const { return {next_available_, next_used_}; }
  const QueueLayout& layout() const { return layout_; }
  const std::string& fault() const { return fault_; }

 private:
  struct Descriptor {
    std::uint64_t address;
    std::uint32_t length;
    std::uint16_t flags;
    std::uint16_t next;
  };
  SplitQueue(MemoryWriter& writer, const QueueLayout& layout, bool event_index,
             QueuePosition position, std::byte* descriptors, std::byte* available, std::byte* used);
  PopResult broken(std::string why);
  bool collect_from(Chain& chain, std::uint16_t head);
  bool collect(Chain& chain, const std::byte* table, std::uint32_t entries, std::uint32_t index,
               bool indirect);
  bool append(Chain& chain, const Descriptor& descriptor);
  void publish16(std::uint64_t offset_in_used, std::uint16_t value);

  MemoryWriter* writer_;
  QueueLayout layout_;
  bool event_index_;
  std::byte* descriptors_;
  std::byte* available_;
  std::byte* used_;
  std::uint16_t next_available_;
  std::uint16_t next_used_;
  std::uint16_t last_signalled_;  // the used index at the last wants_interrupt()
  InflightNotes* notes_ = nullptr;
  std::vector<std::uint16_t> left_;  // heads: what comes before what is available
  std::size_t left_taken_ = 0;
  std::uint64_t popped_ = 0;  // of what is available
  bool signalled_ = false;    // false: nothing is known of what the driver has seen
  std::string fault_;
};

}  // namespace tidepool::virtio
