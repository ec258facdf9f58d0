// How a disk on a server is opened.
#pragma once

#include <chrono>
#include <cstdint>

namespace tidepool::blockdev {

struct RemoteOptions {
  bool read_only = false;
  // How long one attempt after the other to reach the server may fail until all
  // requests do, for good; 0: for ever.
  std::chrono::seconds give_up_after{0};
  // Bytes of memory for writes that the server has not flushed; at more, the store
  // flushes by itself.
  std::uint64_t unflushed_limit = std::uint64_t{64} << 20;
  // For tests that must go red: unflushed writes are not sent again, and nobody looks
  // whether the server is still the same.
  bool forget_unflushed = false;
};

}  // namespace tidepool::blockdev
