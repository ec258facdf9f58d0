// many_extents POOL-FILE: a pool of many disks whose blocks do not adjoin, so that
// each is an extent of its own, to measure open and mount. Prints JSON figures.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "blockdev/stores/file_store.h"
#include "fs/pool/pool.h"
#include "fs/pool/pool_channel.h"
#include "tests/lib/judge.h"

namespace {

using namespace tidepool;

template <class T>
T must(Result<T> result) {
  if (!result) judge::die("%s", result.error().message.c_str());
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

// Allocates every second block of a disk, a window of requests at a time.
class Scatter {
 public:
  Scatter(pool::PoolChannel& channel, EventLoop& loop) : channel_(channel), loop_(loop) {}
  void run(pool::Disk& disk, std::uint64_t extents) {
    disk_ = &disk;
    left_ = extents;
    position_ = 0;
    for (auto& slot : slots_) {
      slot.owner = this;
      if (left_ > 0) submit(slot);
    }
    while (in_flight_ > 0) must(loop_.poll(true));
    if (error_ != 0) judge::die("cannot allocate: %s", std::strerror(error_));
  }

 private:
  struct Slot {
    blockdev::IoRequest request;
    Scatter* owner = nullptr;
    bool inside_submit = false;
  };
  void submit(Slot& slot) {
    for (bool done_inside = true; done_inside && left_ > 0 && error_ == 0;) {
      left_--;
      in_flight_++;
      slot.request = {};
      slot.request.op = blockdev::IoOp::allocate;
      slot.request.offset = position_;
      slot.request.length = pool::block_size;
      position_ += 2 * pool::block_size;
      slot.request.complete = [](blockdev::IoRequest& request, int error) {
        auto& done = reinterpret_cast<Slot&>(request);
        Scatter& self = *done.owner;
        self.in_flight_--;
        if (error != 0) self.error_ = error;
        if (done.inside_submit)
          done.inside_submit = false;
        else
          self.submit(done);
      };
      slot.inside_submit = true;
      channel_.submit(*disk_, slot.request);
      done_inside = !slot.inside_submit;
      slot.inside_submit = false;
    }
  }

  pool::PoolChannel& channel_;
  EventLoop& loop_;
  pool::Disk* disk_ = nullptr;
  Slot slots_[64];
  std::uint64_t left_ = 0, position_ = 0, in_flight_ = 0;
  int error_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  const judge::Options options(argc, argv, {"disks", "extents"}, {},
                               "usage: many_extents POOL-FILE [--disks N] [--extents N]");
  if (options.words.size() != 1) options.usage_error("a pool that elasticctl created");
  const std::uint64_t disks = options.number("disks", 1000);
  const std::uint64_t extents = options.number("extents", 1000000);
  std::shared_ptr<blockdev::FileStore> file = must(blockdev::FileStore::open(options.words[0], {}));
  auto pool = must(pool::Pool::open(file, {}));
  auto loop = must(EventLoop::create({}));
  {
    auto channel = must(pool::PoolChannel::open(*pool, *loop));
    auto scatter = std::make_unique<Scatter>(*channel, *loop);
    pool::NodeId vm = 0;
    for (std::uint64_t i = 0; i < disks; i++) {
      if (i % 10 == 0) vm = must(pool->make_vm(fmt::format("vm{}", i / 10), 0700, 0, 0)).id;
      const auto node = must(pool->make_disk(vm, fmt::format("disk{}", i), 0600, 0, 0));
      pool::Disk* disk = must(pool->hold(node.id));
      const std::uint64_t count = extents / disks;
      must(pool->set_size(*disk, count * 2 * pool::block_size));
      scatter->run(*disk, count);
      pool->release(disk);
    }
  }
  must(pool->commit());
  const auto figures = pool->figures();
  const nlohmann::json line = {{"disks", figures.disks},
                               {"extents", figures.extents},
                               {"map_memory_bytes", figures.map_memory_bytes}};
  fmt::print("{}\n", line.dump());
}
