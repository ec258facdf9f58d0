// The memory of one command's data: page-aligned, so that stores can move it without
// a copy, and not cleared, as whoever reads from it has filled it.
//
// A copy of a DataBuffer is the same memory: a transport that is still receiving into it
// keeps it while the command is gone.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <span>

namespace tidepool::scsi {

class DataBuffer {
 public:
  DataBuffer() = default;
  // Empty where memory is exhausted; size 0 takes none.
  static DataBuffer allocate(std::size_t size) {
    DataBuffer buffer;
    if (size == 0) return buffer;
    constexpr std::size_t page = 4096;
    const std::size_t rounded = (size + page - 1) / page * page;
    if (auto* const data = static_cast<std::byte*>(std::aligned_alloc(page, rounded))) {
      buffer.data_.reset(data, Free{});
      buffer.size_ = size;
    }
    return buffer;
  }

  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  std::size_t size() const { return size_; }
  std::span<std::byte> span() { return {data_.get(), size_}; }
  std::span<const std::byte> span() const { return {data_.get(), size_}; }

 private:
  struct Free {
    void operator()(std::byte* data) const { std::free(data); }
  };
  std::shared_ptr<std::byte[]> data_;
  std::size_t size_ = 0;
};

}  // namespace tidepool::scsi
