#include "tests/lib/fault_store.h"

#include <cstddef>
#include <utility>

namespace tidepool::test {

using blockdev::IoOp;
using blockdev::IoRequest;

// The copy that the store below gets, as the original's working fields are ours.
struct FaultStore::Passing : IoRequest {
  FaultStore* store = nullptr;
  blockdev::IoChannel* below = nullptr;
  EventLoop* loop = nullptr;
  IoRequest* original = nullptr;
  bool submitted = false;
  int error = 0;

  void go_down() {
    submitted = true;
    below->submit(*this);
  }

  void finish() {
    IoRequest& request = *original;
    const int result = error;
    delete this;
    request.complete(request, result);
  }
};

class FaultChannel final : public blockdev::IoChannel {
 public:
  FaultChannel(FaultStore& store, EventLoop& loop, std::unique_ptr<blockdev::IoChannel> below)
      : store_(store), loop_(loop), below_(std::move(below)) {}

  void submit(IoRequest& request) override {
    if (const int error = store_.failure_for(request); error != 0) {
      return request.complete(request, error);
    }
    auto* const passing = new FaultStore::Passing;
    static_cast<IoRequest&>(*passing) = request;
    passing->store = &store_;
    passing->below = below_.get();
    passing->loop = &loop_;
    passing->original = &request;
    passing->complete = [](IoRequest& self, int error) {
      auto& done = static_cast<FaultStore::Passing&>(self);
      done.error = error;
      if (error == 0 && done.op == IoOp::read) done.store->flip_bits(done);
      if (!done.store->hold_if_wanted(done, FaultStore::HoldAt::completion)) done.finish();
    };
    if (!store_.hold_if_wanted(*passing, FaultStore::HoldAt::submission)) passing->go_down();
  }

 private:
  FaultStore& store_;
  EventLoop& loop_;
  std::unique_ptr<blockdev::IoChannel> below_;
};

FaultStore::FaultStore(std::shared_ptr<blockdev::BlockStore> below) : below_(std::move(below)) {}
FaultStore::~FaultStore() = default;

Result<std::unique_ptr<blockdev::IoChannel>> FaultStore::open_channel(EventLoop& loop) {
  auto below = below_->open_channel(loop);
  if (!below) return std::unexpected(below.error());
  return std::make_unique<FaultChannel>(*this, loop, std::move(*below));
}

bool FaultStore::Filter::matches(const IoRequest& request) const {
  if (op && *op != request.op) return false;
  if (request.op == IoOp::flush) return true;
  const bool begins_before_end = length > UINT64_MAX - offset || request.offset < offset + length;
  return begins_before_end && request.offset + request.length > offset;
}

void FaultStore::fail(const Filter& filter, int error, std::uint64_t nth, std::uint64_t count) {
  const std::lock_guard lock(mutex_);
  failures_.push_back({filter, error, nth - 1, count});
}

int FaultStore::failure_for(const IoRequest& request) {
  const std::lock_guard lock(mutex_);
  int error = 0;
  for (auto& failure : failures_) {
    if (failure.count == 0 || !failure.filter.matches(request)) continue;
    if (failure.skip > 0) {
      --failure.skip;
    } else if (error == 0) {
      --failure.count;
      error = failure.error;
    }
  }
  return error;
}

void FaultStore::hold(const Filter& filter, HoldAt where, std::uint64_t count) {
  const std::lock_guard lock(mutex_);
  holds_.push_back({filter, where, count});
}

bool FaultStore::hold_if_wanted(Passing& passing, HoldAt where) {
  const std::lock_guard lock(mutex_);
  for (auto& hold : holds_) {
    if (hold.where != where || hold.count == 0 || !hold.filter.matches(passing)) continue;
    if (hold.count != UINT64_MAX) --hold.count;
    held_.push_back(&passing);
    held_changed_.notify_all();
    return true;
  }
  return false;
}

std::size_t FaultStore::held() const {
  const std::lock_guard lock(mutex_);
  return held_.size();
}

void FaultStore::wait_for_held(std::size_t count) const {
  std::unique_lock lock(mutex_);
  held_changed_.wait(lock, [&] { return held_.size() >= count; });
}

void FaultStore::resume(Passing& passing) {
  passing.loop->post([&passing] {
    if (passing.submitted) {
      passing.finish();
    } else {
      passing.go_down();
    }
  });
}

void FaultStore::release_one() {
  const std::lock_guard lock(mutex_);
  if (held_.empty()) return;
  Passing& oldest = *held_.front();
  held_.pop_front();
  resume(oldest);
}

void FaultStore::release_all() {
  const std::lock_guard lock(mutex_);
  holds_.clear();
  for (Passing* const passing : held_) resume(*passing);
  held_.clear();
}

void FaultStore::flip_bit(std::uint64_t offset, unsigned bit) {
  const std::lock_guard lock(mutex_);
  flips_.push_back({offset, bit});
}

void FaultStore::flip_bits(const IoRequest& request) const {
  const std::lock_guard lock(mutex_);
  for (const auto& [offset, bit] : flips_) {
    std::uint64_t at = request.offset;
    for (unsigned i = 0; i < request.buffer_count; ++i) {
      const iovec& buffer = request.buffers[i];
      if (offset >= at && offset - at < buffer.iov_len) {
        static_cast<std::byte*>(buffer.iov_base)[offset - at] ^= std::byte{1} << bit;
      }
      at += buffer.iov_len;
    }
  }
}

void FaultStore::clear() {
  {
    const std::lock_guard lock(mutex_);
    failures_.clear();
    flips_.clear();
  }
  release_all();
}

}  // namespace tidepool::test
