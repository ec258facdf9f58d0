// Copies what one store holds into another one, several pieces at a time.
//
// Only data is copied: the target must read as zeros wherever the source has holes.
// Blocking; any thread.
#pragma once

#include <atomic>
#include <cstdint>

#include "blockdev/block_store.h"

namespace tidepool::blockdev::chain {

// Of a long operation, for whoever waits for it; any thread.
struct Progress {
  std::atomic<std::uint64_t> done{0}, total{0};  // bytes
  std::atomic<bool> stopped{false};              // set by who does not want to wait for the end
  Result<> go_on() const {
    if (!stopped.load()) return {};
    return fail(ErrorKind::busy, "stopped before the end: give the command again to go on");
  }
};

// Stable when it returns. The target is at least as large as the source; neither
// changes meanwhile.
Result<> copy_store(BlockStore& from, BlockStore& to, Progress& progress);

}  // namespace tidepool::blockdev::chain
