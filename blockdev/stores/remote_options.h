// How a disk on a server is opened.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>

namespace tidepool::blockdev {

// Whether anything may be sent to the server now (blockdev/lease). never: all requests fail.
enum class WritePermit : std::uint8_t { yes, not_now, never };

struct RemoteOptions {
  bool read_only = false;
  // Asked before each request is sent, also again, by the thread that sends it; none: yes.
  std::function<WritePermit()> permit;
  // A connection whose peer has acknowledged nothing of what it was sent for so long is
  // ended, so that nothing arrives much later.
  std::chrono::milliseconds unacknowledged{30'000};
  // How long one attempt after the other to reach the server may fail until all
  // requests do, for good; 0: for ever.
  std::chrono::seconds give_up_after{0};
  // Bytes of memory for writes that the server has not flushed; at more, the store
  // flushes by itself.
  std::uint64_t unflushed_limit = std::uint64_t{64} << 20;
  // Nobody else writes to the disk meanwhile: what was discarded is remembered as holes,
  // where the server cannot be asked for them.
  bool sole_writer = false;
  // For tests that must go red: unflushed writes are not sent again, and nobody looks
  // whether the server is still the same.
  bool forget_unflushed = false;
  // The same: after a flush that failed, one that succeeds counts for what was before both.
  bool trust_after_failure = false;
};

}  // namespace tidepool::blockdev
