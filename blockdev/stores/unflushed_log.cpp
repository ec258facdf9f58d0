#include "blockdev/stores/unflushed_log.h"

#include <utility>

namespace tidepool::blockdev {

void UnflushedLog::add(IoOp op, std::uint64_t offset, std::uint64_t length,
                       std::vector<std::byte> data) {
  memory_ += entry_cost + data.size();
  entries_.push_back({.number = ++last_,
                      .op = op,
                      .offset = offset,
                      .length = length,
                      .data = std::move(data)});
}

void UnflushedLog::flushed(std::uint64_t mark) {
  while (!entries_.empty() && entries_.front().number <= mark) {
    memory_ -= entry_cost + entries_.front().data.size();
    entries_.pop_front();
  }
}

}  // namespace tidepool::blockdev
