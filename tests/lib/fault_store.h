// Another store with faults on demand: errors, requests that hang until told,
// flipped bits.
//
// Rules may be set from any thread at any time; they act on requests submitted
// afterwards (flipped bits: on reads that complete afterwards). Allocates per
// request: for tests only. clear() or release_all() must come before the
// channels are destroyed when requests are held.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "blockdev/block_store.h"

namespace tidepool::test {

class FaultStore : public blockdev::BlockStore {
 public:
  // Which requests a rule means: of one kind or all, that touch a range.
  struct Filter {
    std::optional<blockdev::IoOp> op;
    std::uint64_t offset = 0;
    std::uint64_t length = UINT64_MAX;
    bool matches(const blockdev::IoRequest& request) const;
  };
  enum class HoldAt {
    submission,  // the store below has not seen the request yet
    completion,  // the store below is done with it, the caller does not know
  };

  explicit FaultStore(std::shared_ptr<blockdev::BlockStore> below);
  ~FaultStore() override;

  // Fails the nth matching request from now (1: the next) and the ones after it,
  // `count` in all, with a positive errno. They do not reach the store below.
  void fail(const Filter& filter, int error, std::uint64_t nth = 1, std::uint64_t count = 1);

  // Holds matching requests until release: at most `count` of them.
  void hold(const Filter& filter, HoldAt where, std::uint64_t count = UINT64_MAX);
  std::size_t held() const;
  void wait_for_held(std::size_t count) const;  // blocks the calling thread
  void release_one();                           // the oldest
  void release_all();                           // and holds no more

  // Reads that cover the byte see one bit of it inverted, until clear().
  void flip_bit(std::uint64_t offset, unsigned bit);

  void clear();  // takes all rules away and releases what is held

  const std::string& name() const override { return below_->name(); }
  blockdev::Geometry geometry() const override { return below_->geometry(); }
  Result<std::unique_ptr<blockdev::IoChannel>> open_channel(EventLoop& loop) override;
  Result<> locate(std::uint64_t offset, std::uint64_t length,
                  const std::function<bool(const blockdev::Range&)>& sink) override {
    return below_->locate(offset, length, sink);
  }

 private:
  friend class FaultChannel;
  struct Passing;  // a request on its way through
  struct Failure {
    Filter filter;
    int error = 0;
    std::uint64_t skip = 0, count = 0;
  };
  struct Hold {
    Filter filter;
    HoldAt where = HoldAt::submission;
    std::uint64_t count = 0;
  };
  struct Flip {
    std::uint64_t offset = 0;
    unsigned bit = 0;
  };

  int failure_for(const blockdev::IoRequest& request);
  bool hold_if_wanted(Passing& passing, HoldAt where);
  void flip_bits(const blockdev::IoRequest& request) const;
  static void resume(Passing& passing);  // on its loop

  const std::shared_ptr<blockdev::BlockStore> below_;
  mutable std::mutex mutex_;  // guards all below
  mutable std::condition_variable held_changed_;
  std::vector<Failure> failures_;
  std::vector<Hold> holds_;
  std::vector<Flip> flips_;
  std::deque<Passing*> held_;
};

}  // namespace tidepool::test
