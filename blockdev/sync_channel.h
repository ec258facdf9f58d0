// Blocking calls over a channel, for tools, recovery and commit threads.
//
// Owns a channel on the store, and mostly its loop; usable by one thread at a time.
// Buffers follow the store's alignment rules; AlignedBuffer satisfies all.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "blockdev/block_store.h"

namespace tidepool::blockdev {

class SyncChannel {
 public:
  static Result<std::unique_ptr<SyncChannel>> open(BlockStore& store);
  // On a loop that make_loop() gave: many channels that are used one after the other share
  // one. It outlives them.
  static Result<std::unique_ptr<SyncChannel>> open(BlockStore& store, EventLoop& loop);
  static Result<std::unique_ptr<EventLoop>> make_loop();

  Result<> read(std::uint64_t offset, std::span<std::byte> data);
  Result<> write(std::uint64_t offset, std::span<const std::byte> data);
  Result<> flush();
  Result<> discard(std::uint64_t offset, std::uint64_t length);
  Result<> zero(std::uint64_t offset, std::uint64_t length);

 private:
  SyncChannel(BlockStore& store, EventLoop& loop, std::unique_ptr<IoChannel> channel);
  Result<> run(IoRequest& request, const char* what);

  BlockStore& store_;
  std::unique_ptr<EventLoop> own_loop_;  // null where the caller's is used
  EventLoop& loop_;
  std::unique_ptr<IoChannel> channel_;
};

// Page-aligned, zeroed memory; owns it.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t size);  // bytes; aborts when memory is exhausted
  std::span<std::byte> span() { return {data_.get(), size_}; }
  std::byte* data() { return data_.get(); }
  std::size_t size() const { return size_; }

 private:
  struct Free {
    std::size_t mapped;  // bytes; 0: from the heap
    void operator()(std::byte* data) const;
  };
  std::unique_ptr<std::byte[], Free> data_;
  std::size_t size_ = 0;
};

}  // namespace tidepool::blockdev
