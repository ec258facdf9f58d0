// The driver's side of a split virtqueue, written from the standard and apart from
// the device's: the oracle of its tests.
//
// Rings and indirect tables lie in guest memory that the test owns. One thread.
#pragma once

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "virtio/device.h"
#include "virtio/split_queue.h"

namespace tidepool::test {

// Guest memory of one region that begins at `base`, handed out from its start.
class TestMemory {
 public:
  static constexpr std::uint64_t base = 0x10000;
  explicit TestMemory(std::uint64_t size) : bytes_(size + 4096) {
    const auto address = reinterpret_cast<std::uintptr_t>(bytes_.data());
    start_ = bytes_.data() + (4096 - address % 4096) % 4096;
    memory_ = *virtio::GuestMemory::create({{base, size, start_}});
  }
  std::uint64_t take(std::uint64_t length, std::uint64_t alignment = 16) {
    next_ = (next_ + alignment - 1) / alignment * alignment;
    const std::uint64_t at = next_;
    next_ += length;
    return at;
  }
  std::byte* at(std::uint64_t guest) { return start_ + (guest - base); }
  template <class T>
  T get(std::uint64_t guest) {
    if constexpr (sizeof(T) == 2) {  // what both sides look at while the other changes it
      return std::atomic_ref(*reinterpret_cast<T*>(at(guest))).load(std::memory_order_acquire);
    } else {
      T value;
      std::memcpy(&value, at(guest), sizeof value);
      return value;
    }
  }
  template <class T>
  void put(std::uint64_t guest, T value) {
    if constexpr (sizeof(T) == 2) {
      std::atomic_ref(*reinterpret_cast<T*>(at(guest))).store(value, std::memory_order_release);
    } else {
      std::memcpy(at(guest), &value, sizeof value);
    }
  }
  std::shared_ptr<const virtio::GuestMemory> map() const { return memory_; }

 private:
  std::vector<std::byte> bytes_;
  std::byte* start_;
  std::uint64_t next_ = base;
  std::shared_ptr<const virtio::GuestMemory> memory_;
};

class QueueDriver {
 public:
  struct Piece {
    std::uint64_t address;
    std::uint32_t length;
    bool writable;
  };
  struct Used {
    std::uint32_t id, length;
  };

  QueueDriver(TestMemory& memory, std::uint16_t size, bool event_index)
      : memory_(memory), size_(size), event_index_(event_index) {
    descriptors_ = memory.take(16ULL * size);
    available_ = memory.take(6ULL + 2ULL * size);
    used_ = memory.take(6ULL + 8ULL * size);
    for (std::uint16_t i = 0; i < size; ++i) free_.push_back(i);
  }

  virtio::QueueLayout layout() const { return {size_, descriptors_, available_, used_}; }
  std::size_t room() const { return free_.size(); }
  std::uint64_t descriptor(std::uint16_t index) const { return descriptors_ + 16ULL * index; }
  std::uint64_t available() const { return available_; }
  std::uint64_t used() const { return used_; }

  void write_descriptor(std::uint64_t at, std::uint64_t address, std::uint32_t length,
                        std::uint16_t flags, std::uint16_t next) {
    memory_.put(at, address);
    memory_.put(at + 8, length);
    memory_.put(at + 12, flags);
    memory_.put(at + 14, next);
  }

  // Makes a chain available; its head. There is room for it.
  std::uint16_t add(const std::vector<Piece>& pieces, bool indirect) {
    std::vector<std::uint16_t> taken;
    const std::size_t count = indirect ? 1 : pieces.size();
    for (std::size_t i = 0; i < count; ++i) {
      taken.push_back(free_.front());
      free_.pop_front();
    }
    if (indirect) {
      const std::uint64_t table = memory_.take(16 * pieces.size());
      for (std::size_t i = 0; i < pieces.size(); ++i) {
        const bool more = i + 1 < pieces.size();
        write_descriptor(table + 16 * i, pieces[i].address, pieces[i].length,
                         static_cast<std::uint16_t>((more ? 1 : 0) | (pieces[i].writable ? 2 : 0)),
                         static_cast<std::uint16_t>(i + 1));
      }
      write_descriptor(descriptor(taken[0]), table, static_cast<std::uint32_t>(16 * pieces.size()),
                       4, 0);
    } else {
      for (std::size_t i = 0; i < pieces.size(); ++i) {
        const bool more = i + 1 < pieces.size();
        write_descriptor(descriptor(taken[i]), pieces[i].address, pieces[i].length,
                         static_cast<std::uint16_t>((more ? 1 : 0) | (pieces[i].writable ? 2 : 0)),
                         more ? taken[i + 1] : std::uint16_t{0});
      }
    }
    const std::uint16_t head = taken[0];
    chains_[head] = std::move(taken);
    publish(head);
    return head;
  }
  void publish(std::uint16_t head) {
    memory_.put<std::uint16_t>(available_ + 4 + 2ULL * (next_available_ % size_), head);
    ++next_available_;
    index(available_ + 2).store(next_available_, std::memory_order_release);
  }

  // What the device used since the last call.
  std::optional<Used> poll() {
    if (index(used_ + 2).load(std::memory_order_acquire) == next_used_) return std::nullopt;
    const std::uint64_t at = used_ + 4 + 8ULL * (next_used_ % size_);
    ++next_used_;
    const Used used{memory_.get<std::uint32_t>(at), memory_.get<std::uint32_t>(at + 4)};
    const auto chain = chains_.find(static_cast<std::uint16_t>(used.id));
    if (chain != chains_.end()) {
      free_.insert(free_.end(), chain->second.begin(), chain->second.end());
      chains_.erase(chain);
    }
    if (event_index_) memory_.put<std::uint16_t>(available_ + 4 + 2ULL * size_, next_used_);
    return used;
  }

  // Whether the device wants to hear of the last publish().
  bool must_kick() {
    virtio::full_barrier();
    if (!event_index_) return (memory_.get<std::uint16_t>(used_) & 1) == 0;
    const auto event = memory_.get<std::uint16_t>(used_ + 4 + 8ULL * size_);
    return static_cast<std::uint16_t>(next_available_ - 1 - event) <
           static_cast<std::uint16_t>(next_available_ - kicked_at_);
  }
  void kicked() { kicked_at_ = next_available_; }

 private:
  std::atomic_ref<std::uint16_t> index(std::uint64_t guest) {
    return std::atomic_ref(*reinterpret_cast<std::uint16_t*>(memory_.at(guest)));
  }
  TestMemory& memory_;
  const std::uint16_t size_;
  const bool event_index_;
  std::uint64_t descriptors_, available_, used_;
  std::uint16_t next_available_ = 0, next_used_ = 0, kicked_at_ = 0;
  std::deque<std::uint16_t> free_;
  std::map<std::uint16_t, std::vector<std::uint16_t>> chains_;
};

struct CountingInterrupt : virtio::Interrupt {
  std::atomic<unsigned> count{0};
  void signal() override { ++count; }
};

inline void kick(const UniqueFd& eventfd) {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(eventfd.get(), &one, sizeof one);
}

// What the device uses next; nothing: it uses nothing for so many milliseconds.
inline std::optional<QueueDriver::Used> wait_used(QueueDriver& driver, int patience = 20'000) {
  for (int i = 0; i < patience; ++i) {
    if (auto used = driver.poll()) return used;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return std::nullopt;
}

}  // namespace tidepool::test
