// A disk that reads as zeros and forgets what is written, at once: for measuring
// what lies above it, and where the content does not matter.
#pragma once

#include <cstdint>
#include <string>

#include "blockdev/block_store.h"

namespace tidepool::test {

class NullStore : public blockdev::BlockStore {
 public:
  explicit NullStore(std::uint64_t size) : size_(size) {}  // bytes

  const std::string& name() const override { return name_; }
  blockdev::Geometry geometry() const override { return {.size = size_, .can_discard = true}; }
  Result<std::unique_ptr<blockdev::IoChannel>> open_channel(EventLoop& loop) override;
  Result<> locate(std::uint64_t offset, std::uint64_t length,
                  const std::function<bool(const blockdev::Range&)>& sink) override;

 private:
  const std::string name_ = "null";
  const std::uint64_t size_;
};

}  // namespace tidepool::test
