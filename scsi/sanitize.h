// SANITIZE under way: the whole medium is overwritten or erased, piece by piece.
//
// It is not a task: no abort and no reset ends it. Whoever waits for it is told by
// `done`. Once it failed, only EXIT FAILURE MODE or another SANITIZE ends that state.
// Limit: it does not go on after the program's end; then the medium is partly sanitized.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "blockdev/block_store.h"
#include "scsi/data_buffer.h"
#include "scsi/sense.h"

namespace tidepool::scsi {

class Sanitize {
 public:
  enum class Kind : std::uint8_t { overwrite, block_erase };

  explicit Sanitize(blockdev::IoChannel& channel, std::uint64_t size);

  bool running() const { return running_; }
  bool has_failed() const { return failed_; }
  void leave_failure() { failed_ = false; }
  std::uint16_t progress() const;  // of 65,536

  // pattern: one block, for overwrite; passes: how many times, alternating with its
  // inverse where `invert`. `done` is called with 0 or the store's errno. False: no memory.
  bool start(Kind kind, std::span<const std::byte> pattern, unsigned passes, bool invert,
             std::function<void(int error)> done);
  void stop() { stopping_ = true; }

 private:
  struct Request : blockdev::IoRequest {
    Sanitize* owner = nullptr;
  };
  void go_on();
  void next_piece();
  void answered(int error);
  void end(int error);
  void fill(bool inverted);

  blockdev::IoChannel& channel_;
  const std::uint64_t size_;  // bytes
  bool running_ = false, failed_ = false, stopping_ = false;
  bool going_on_ = false, again_ = false;  // a store may answer before submit() returns
  Kind kind_ = Kind::overwrite;
  std::vector<std::byte> pattern_;
  DataBuffer piece_;
  unsigned passes_ = 1, pass_ = 0;
  bool invert_ = false;
  std::uint64_t position_ = 0;
  Request request_;
  iovec buffer_{};
  std::function<void(int)> done_;
};

}  // namespace tidepool::scsi
