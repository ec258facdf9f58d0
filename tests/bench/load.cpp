#include "tests/bench/load.h"

#include <algorithm>
#include <vector>

#include "blockdev/sync_channel.h"
#include "tests/lib/judge.h"

namespace tidepool::bench {
namespace {

using Clock = std::chrono::steady_clock;

class Generator {
 public:
  Generator(blockdev::IoChannel& channel, const Load& load, std::uint64_t span, std::uint64_t seed)
      : channel_(channel),
        load_(load),
        blocks_(span / load.block),
        random_(seed),
        memory_(std::size_t{load.block} * load.depth),
        slots_(load.depth) {
    judge::fill_random(random_, reinterpret_cast<unsigned char*>(memory_.data()), memory_.size());
    for (unsigned i = 0; i < load.depth; i++) {
      slots_[i].owner = this;
      slots_[i].vector = {memory_.data() + std::size_t{i} * load.block, load.block};
    }
  }

  void start() {
    for (auto& slot : slots_) submit(slot);
  }
  void stop() { stopping_ = true; }
  bool busy() const { return in_flight_ > 0; }
  std::uint64_t completed() const { return completed_; }
  int error() const { return error_; }

 private:
  struct Slot {
    blockdev::IoRequest request;
    iovec vector{};
    Generator* owner = nullptr;
    bool inside_submit = false, again = false;
  };

  // A store may complete inside submit(): then the loop here goes on, not the
  // stack.
  void submit(Slot& slot) {
    do {
      slot.again = false;
      slot.request = {};
      slot.request.op = load_.op;
      slot.request.offset = next_block() * load_.block;
      slot.request.length = load_.block;
      slot.request.buffers = &slot.vector;
      slot.request.buffer_count = 1;
      slot.request.complete = [](blockdev::IoRequest& request, int error) {
        auto& done = reinterpret_cast<Slot&>(request);
        done.owner->completed(done, error);
      };
      in_flight_++;
      slot.inside_submit = true;
      channel_.submit(slot.request);
      slot.inside_submit = false;
    } while (slot.again);
  }

  void completed(Slot& slot, int error) {
    in_flight_--;
    completed_++;
    if (error != 0) {
      error_ = error;
      stopping_ = true;
    }
    if (stopping_) return;
    if (slot.inside_submit)
      slot.again = true;
    else
      submit(slot);
  }

  std::uint64_t next_block() {
    if (load_.random) return random_.below(blocks_);
    const std::uint64_t block = sequential_;
    sequential_ = (sequential_ + 1) % blocks_;
    return block;
  }

  blockdev::IoChannel& channel_;
  const Load load_;
  const std::uint64_t blocks_;
  judge::Random random_;
  blockdev::AlignedBuffer memory_;
  std::vector<Slot> slots_;
  std::uint64_t sequential_ = 0, completed_ = 0;
  unsigned in_flight_ = 0;
  int error_ = 0;
  bool stopping_ = false;
};

}  // namespace

Result<LoadResult> run_load(blockdev::BlockStore& store, const Load& load, std::uint64_t span,
                            std::chrono::milliseconds time, std::uint64_t seed) {
  auto loop = EventLoop::create({});
  if (!loop) return std::unexpected(loop.error());
  auto channel = store.open_channel(**loop);
  if (!channel) return std::unexpected(channel.error());
  Generator generator(**channel, load, span, seed);
  const auto start = Clock::now();
  generator.start();
  for (auto now = start; generator.busy(); now = Clock::now()) {
    if (now - start >= time) generator.stop();
    if (auto polled = (*loop)->poll(true); !polled) return std::unexpected(polled.error());
  }
  if (generator.error() != 0) return fail_errno(generator.error(), load.name);
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  const double rate = static_cast<double>(generator.completed()) / seconds;
  return LoadResult{rate, rate * load.block};
}

}  // namespace tidepool::bench
