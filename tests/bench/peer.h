// A load by another library than ours: so many requests at a time, for some time.
#pragma once

#include <poll.h>

#include <chrono>
#include <cstddef>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "tests/bench/load.h"
#include "tests/lib/judge.h"

namespace tidepool::bench {

using Clock = std::chrono::steady_clock;

struct Job {
  std::string uri;
  Load load;
  std::uint64_t span = 0;  // bytes
  std::chrono::milliseconds time{0};
  std::uint64_t seed = 1;
};

// `depth` requests at a time against a client library that is polled.
class Peer {
 public:
  explicit Peer(const Job& job)
      : job_(job), random_(job.seed), slots_(job.load.depth), memory_(job.load.block) {
    judge::fill_random(random_, memory_.data(), memory_.size());
  }
  virtual ~Peer() = default;
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  double requests_per_second() {
    const auto start = Clock::now();
    for (Slot& slot : slots_) {
      slot.peer = this;
      slot.memory.resize(job_.load.block);
      begin(slot);
    }
    for (auto now = start; busy_ > 0; now = Clock::now()) {
      stopping_ = now - start >= job_.time;
      serve();
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    return static_cast<double>(completed_) / seconds;
  }

 protected:
  struct Slot {
    Peer* peer = nullptr;
    std::vector<unsigned char> memory;  // what is read is copied to
  };
  bool writes() const { return job_.load.op == blockdev::IoOp::write; }
  std::ptrdiff_t number_of(const Slot& slot) const { return &slot - slots_.data(); }
  void completed(Slot& slot, const void* data) {
    if (data != nullptr) std::memcpy(slot.memory.data(), data, slot.memory.size());
    --busy_;
    ++completed_;
    if (!stopping_) begin(slot);
  }
  static void poll_on(int fd, int events, const std::function<int(int)>& service) {
    pollfd ready{.fd = fd, .events = static_cast<short>(events), .revents = 0};
    if (::poll(&ready, 1, -1) < 0 || service(ready.revents) < 0) judge::die("the connection ended");
  }

  const Job& job_;

 private:
  virtual void submit(Slot& slot, std::uint64_t offset, unsigned char* data) = 0;
  virtual void serve() = 0;

  void begin(Slot& slot) {
    const std::uint64_t blocks = job_.span / job_.load.block;
    const std::uint64_t block = job_.load.random ? random_.below(blocks) : next_++ % blocks;
    ++busy_;
    submit(slot, block * job_.load.block, memory_.data());
  }

  judge::Random random_;
  std::vector<Slot> slots_;
  std::vector<unsigned char> memory_;  // what is written
  std::uint64_t next_ = 0, completed_ = 0;
  unsigned busy_ = 0;
  bool stopping_ = false;
};

}  // namespace tidepool::bench
