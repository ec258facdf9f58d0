#include "blockdev/stores/unflushed_log.h"

#include <algorithm>
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

UnflushedLog::Sync UnflushedLog::begin_sync() {
  under_way_.push_back(++last_sync_);
  return {.number = last_sync_, .mark = last_};
}

void UnflushedLog::end_sync(const Sync& sync, bool flush) {
  if (std::erase(under_way_, sync.number) == 0) return;
  if (flush) covered_.push_back({.mark = sync.mark, .last_sync = last_sync_});
  while (!covered_.empty() &&
         (under_way_.empty() || under_way_.front() > covered_.front().last_sync)) {
    drop(covered_.front().mark);
    covered_.pop_front();
  }
}

void UnflushedLog::forget_syncs() {
  under_way_.clear();
  covered_.clear();
}

void UnflushedLog::drop(std::uint64_t mark) {
  while (!entries_.empty() && entries_.front().number <= mark) {
    memory_ -= entry_cost + entries_.front().data.size();
    entries_.pop_front();
  }
}

}  // namespace tidepool::blockdev
