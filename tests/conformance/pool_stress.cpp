// pool_stress POOL-FILE: many threads on the disks of one pool in process, each
// with a loop, a channel and several requests in flight, against what each thread
// knows it wrote.
//
// In the first half of a disk the threads share blocks: of each block a thread
// owns every n-th sector, so partial writes meet. In the second half each owns runs
// of blocks, where it also discards, zeros and allocates. Meanwhile one more thread
// makes, fills and removes disks, so that blocks change owners, up to ENOSPC.
// Every sector read must be what its owner wrote, or (of another thread, which may
// be writing it) at least of the disk's own marks. At the end, and once more after
// the pool was checked and opened again, everything is compared.
#include <atomic>
#include <cinttypes>
#include <mutex>
#include <thread>

#include "blockdev/stores/file_store.h"
#include "blockdev/sync_channel.h"
#include "fs/pool/check.h"
#include "fs/pool/pool.h"
#include "fs/pool/pool_channel.h"
#include "tests/integration/stamp.h"
#include "tests/lib/judge.h"

namespace {

using namespace tidepool;
using blockdev::IoOp;
using judge::sector_size;

constexpr std::uint64_t block_sectors = pool::block_size / sector_size;
constexpr std::uint64_t run_sectors = 16 * block_sectors;
constexpr std::uint64_t unknown = ~std::uint64_t{0};  // the write failed: old, new or both
constexpr unsigned disk_count = 4, depth = 8;

template <class T>
T must(Result<T> result) {
  if (!result) judge::die("%s", result.error().message.c_str());
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

struct Target {
  std::string name;
  std::uint64_t mark = 0;
  pool::NodeId id = 0;
  pool::Disk* disk = nullptr;
};

struct Settings {
  std::uint64_t seed = 1, threads = 4, seconds = 5, sectors = (16 << 20) / sector_size;
};

// What one thread wrote: per sector of each disk the generation, 0 = zeros.
struct Model {
  std::vector<std::vector<std::uint64_t>> generations;
};

class Worker {
 public:
  Worker(pool::Pool& pool, std::vector<Target>& targets, const Settings& settings, unsigned index,
         Model& model)
      : targets_(targets),
        settings_(settings),
        index_(index),
        model_(model),
        random_(judge::mix(settings.seed, index)),
        loop_(must(EventLoop::create({}))),
        channel_(must(pool::PoolChannel::open(pool, *loop_))),
        busy_(disk_count, std::vector<bool>(settings.sectors / block_sectors)) {
    for (auto& slot : slots_) {
      slot.owner = this;
      slot.data = blockdev::AlignedBuffer(run_sectors * sector_size);
    }
  }

  void run(const std::atomic<bool>& stop) {
    while (!stop) {
      for (auto& slot : slots_)
        if (!slot.in_flight) start_something(slot);
      must(loop_->poll(in_flight_ > 0));
    }
    while (in_flight_ > 0) must(loop_->poll(true));
  }

  // Everything this thread owns, read again.
  void verify_all() {
    for (unsigned disk = 0; disk < disk_count; disk++)
      for (std::uint64_t first = 0; first < settings_.sectors; first += run_sectors) {
        Slot& slot = slots_[0];
        submit(slot, IoOp::read, disk, first, run_sectors);
        while (in_flight_ > 0) must(loop_->poll(true));
      }
  }
  std::uint64_t completed() const { return completed_; }
  std::uint64_t refused() const { return refused_; }

 private:
  struct Slot {
    blockdev::IoRequest request;
    Worker* owner = nullptr;
    blockdev::AlignedBuffer data;
    iovec vector{};
    unsigned disk = 0;
    std::uint64_t first = 0, sectors = 0, generation = 0;
    bool in_flight = false;
  };

  bool shared(std::uint64_t sector) const { return sector < settings_.sectors / 2; }
  bool own(std::uint64_t sector) const {
    return shared(sector) ? sector % settings_.threads == index_
                          : sector / run_sectors % settings_.threads == index_;
  }

  void start_something(Slot& slot) {
    if (random_.chance(40)) return submit(slot, IoOp::flush, pick_disk(), 0, 0);
    const unsigned disk = pick_disk();
    std::uint64_t first = random_.below(settings_.sectors), sectors = 1;
    IoOp op = random_.chance(2) ? IoOp::write : IoOp::read;
    if (shared(first)) {
      first = first / block_sectors * block_sectors;
      if (op == IoOp::read)
        sectors = block_sectors;
      else
        first += random_.below(block_sectors / settings_.threads) * settings_.threads + index_;
    } else {
      const std::uint64_t runs = settings_.sectors / 2 / run_sectors / settings_.threads;
      const std::uint64_t start = settings_.sectors / 2 / run_sectors;
      const std::uint64_t shift =
          (index_ + settings_.threads - start % settings_.threads) % settings_.threads;
      const std::uint64_t run = start + shift + random_.below(runs) * settings_.threads;
      const std::uint64_t skip = random_.below(run_sectors);
      first = run * run_sectors + skip;
      sectors = std::min(random_.size_up_to(run_sectors), run_sectors - skip);
      static constexpr IoOp rare[] = {IoOp::discard, IoOp::zero, IoOp::allocate};
      if (random_.chance(4)) op = rare[random_.below(3)];
    }
    if (first + sectors > settings_.sectors || !own_range(op, first, sectors)) return;
    if (!claim(disk, first, sectors, true)) return;
    submit(slot, op, disk, first, sectors);
  }

  bool own_range(IoOp op, std::uint64_t first, std::uint64_t sectors) const {
    if (op == IoOp::read) return true;
    for (std::uint64_t i = 0; i < sectors; i++)
      if (!own(first + i)) return false;
    return true;
  }

  // One request of ours per block at a time: the order of two is not defined.
  bool claim(unsigned disk, std::uint64_t first, std::uint64_t sectors, bool on) {
    const std::uint64_t begin = first / block_sectors;
    const std::uint64_t end = (first + sectors + block_sectors - 1) / block_sectors;
    if (on)
      for (std::uint64_t block = begin; block < end; block++)
        if (busy_[disk][block]) return false;
    for (std::uint64_t block = begin; block < end; block++) busy_[disk][block] = on;
    return true;
  }

  unsigned pick_disk() { return static_cast<unsigned>(random_.below(disk_count)); }

  void submit(Slot& slot, IoOp op, unsigned disk, std::uint64_t first, std::uint64_t sectors) {
    slot.disk = disk;
    slot.first = first;
    slot.sectors = sectors;
    slot.in_flight = true;
    in_flight_++;
    slot.request = {};
    slot.request.op = op;
    slot.request.offset = first * sector_size;
    slot.request.length = sectors * sector_size;
    if (op == IoOp::write) {
      slot.generation = ++generation_;
      for (std::uint64_t i = 0; i < sectors; i++)
        judge::write_stamp(bytes(slot, i), {targets_[disk].mark, first + i, slot.generation});
    }
    if (op == IoOp::read || op == IoOp::write) {
      slot.vector = {slot.data.data(), sectors * sector_size};
      slot.request.buffers = &slot.vector;
      slot.request.buffer_count = 1;
    }
    slot.request.complete = [](blockdev::IoRequest& request, int error) {
      auto& done = reinterpret_cast<Slot&>(request);
      done.owner->finish(done, error);
    };
    channel_->submit(*targets_[disk].disk, slot.request);
  }

  void finish(Slot& slot, int error) {
    in_flight_--;
    completed_++;
    slot.in_flight = false;
    auto& known = model_.generations[slot.disk];
    const IoOp op = slot.request.op;
    if (op != IoOp::flush) claim(slot.disk, slot.first, slot.sectors, false);
    if (error == ENOSPC && (op == IoOp::write || op == IoOp::allocate || op == IoOp::zero)) {
      refused_++;
      if (op != IoOp::allocate)
        for (std::uint64_t i = 0; i < slot.sectors; i++) known[slot.first + i] = unknown;
      return;
    }
    if (error != 0)
      judge::die("%s: request %d at sector %" PRIu64 " + %" PRIu64 ": %s",
                 targets_[slot.disk].name.c_str(), static_cast<int>(op), slot.first, slot.sectors,
                 std::strerror(error));
    for (std::uint64_t i = 0; i < slot.sectors; i++) {
      if (op == IoOp::write) known[slot.first + i] = slot.generation;
      if (op == IoOp::discard || op == IoOp::zero) known[slot.first + i] = 0;
      if (op == IoOp::read) judge_sector(slot, i);
    }
  }

  void judge_sector(Slot& slot, std::uint64_t i) {
    const Target& target = targets_[slot.disk];
    const std::uint64_t sector = slot.first + i;
    const std::uint64_t want = own(sector) ? model_.generations[slot.disk][sector] : unknown;
    const unsigned char* data = bytes(slot, i);
    if (want == 0 ? judge::all_zero(data, sector_size)
                  : want != unknown && judge::is_stamp(data, {target.mark, sector, want}))
      return;
    // Of a sector that may be changing: zeros or the disk's marks, word by word.
    if (want == unknown) {
      bool foreign = false;
      for (std::size_t at = 0; at < sector_size; at += 16) {
        std::uint64_t word = 0;
        std::memcpy(&word, data + at, 8);
        foreign = foreign || (word != 0 && word != target.mark);
      }
      if (!foreign) return;
    }
    const auto found = judge::read_stamp(data);
    judge::die("%s: sector %" PRIu64 " of thread %u: must be generation %" PRIu64
               " of mark %016" PRIx64 ", has mark %016" PRIx64 " sector %" PRIu64
               " generation %" PRIu64 "%s",
               target.name.c_str(), sector, index_, want, target.mark, found.mark, found.sector,
               found.generation, judge::is_stamp(data, found) ? "" : " (torn)");
  }

  static unsigned char* bytes(Slot& slot, std::uint64_t sector) {
    return reinterpret_cast<unsigned char*>(slot.data.data()) + sector * sector_size;
  }

  std::vector<Target>& targets_;
  const Settings settings_;
  const unsigned index_;
  Model& model_;
  judge::Random random_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<pool::PoolChannel> channel_;
  std::vector<std::vector<bool>> busy_;  // per disk and block: one of our requests is on it
  Slot slots_[depth];
  std::uint64_t generation_ = 0, completed_ = 0, refused_ = 0;
  unsigned in_flight_ = 0;
};

// Disks that come, are filled, and go: until the space ends, then from the start.
void come_and_go(pool::Pool& pool, pool::NodeId vm, const std::atomic<bool>& stop,
                 std::uint64_t& made) {
  auto data = blockdev::AlignedBuffer(1 << 20);
  for (std::uint64_t at = 0; at < data.size(); at += sector_size)
    judge::write_stamp(reinterpret_cast<unsigned char*>(data.data()) + at,
                       {judge::mark_of("foreign"), at, 1});
  for (; !stop; made++) {
    const std::string name = "foreign" + std::to_string(made);
    const auto node = must(pool.make_disk(vm, name, 0600, 0, 0));
    pool::Disk* held = must(pool.hold(node.id));
    must(pool.set_size(*held, 24 << 20));
    {
      auto store = must(pool::open_disk_store(pool, node.id));
      auto channel = must(blockdev::SyncChannel::open(*store));
      for (std::uint64_t offset = 0; offset < 24 << 20; offset += data.size()) {
        const auto written = channel->write(offset, data.span());
        if (!written && written.error().errno_value != ENOSPC)
          judge::die("%s: %s", name.c_str(), written.error().message.c_str());
      }
    }
    must(pool.remove_disk(vm, name));
    pool.release(held);
  }
}

std::unique_ptr<pool::Pool> open_pool(const std::string& path, std::vector<Target>& targets) {
  std::shared_ptr<blockdev::FileStore> store = must(blockdev::FileStore::open(path, {}));
  auto pool = must(pool::Pool::open(std::move(store), {}));
  for (Target& target : targets)
    if (target.id != 0) target.disk = must(pool->hold(target.id));
  return pool;
}

void verify(pool::Pool& pool, std::vector<Target>& targets, const Settings& settings,
            std::vector<Model>& models) {
  for (unsigned i = 0; i < settings.threads; i++)
    Worker(pool, targets, settings, i, models[i]).verify_all();
}

void stress(const std::string& path, const Settings& settings) {
  std::vector<Target> targets(disk_count);
  {
    std::shared_ptr<blockdev::FileStore> store = must(blockdev::FileStore::open(path, {}));
    must(pool::Pool::create(*store, {.chunk_bytes = 64 << 10}, true));
  }
  auto pool = open_pool(path, targets);
  const auto vm = must(pool->make_vm("vm", 0700, 0, 0));
  const auto other = must(pool->make_vm("other", 0700, 0, 0));
  for (unsigned i = 0; i < disk_count; i++) {
    Target& target = targets[i];
    target.name = "disk" + std::to_string(i);
    target.mark = judge::mark_of(target.name);
    target.id = must(pool->make_disk(vm.id, target.name, 0600, 0, 0)).id;
    target.disk = must(pool->hold(target.id));
    must(pool->set_size(*target.disk, settings.sectors * sector_size));
  }
  std::vector<Model> models(settings.threads);
  for (Model& model : models)
    model.generations.assign(disk_count, std::vector<std::uint64_t>(settings.sectors, 0));

  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> completed{0}, refused{0};
  std::uint64_t made = 0;
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < settings.threads; i++)
    threads.emplace_back([&, i] {
      Worker worker(*pool, targets, settings, i, models[i]);
      worker.run(stop);
      completed += worker.completed();
      refused += worker.refused();
    });
  threads.emplace_back([&] { come_and_go(*pool, other.id, stop, made); });
  std::this_thread::sleep_for(std::chrono::seconds(settings.seconds));
  stop = true;
  for (auto& thread : threads) thread.join();
  verify(*pool, targets, settings, models);
  for (Target& target : targets) pool->release(target.disk);
  pool.reset();

  {
    auto store = must(blockdev::FileStore::open(path, {.read_only = true}));
    const auto report = must(pool::check_pool(*store, false));
    for (const auto& finding : report.findings)
      std::fprintf(stderr, "check: %s\n", finding.c_str());
    if (!report.findings.empty()) judge::die("the pool has faults after a clean close");
  }
  pool = open_pool(path, targets);
  verify(*pool, targets, settings, models);
  for (Target& target : targets) pool->release(target.disk);
  std::printf("%" PRIu64 " requests, %" PRIu64 " refused for space, %" PRIu64
              " disks came and went\n",
              completed.load(), refused.load(), made);
}

}  // namespace

int main(int argc, char** argv) {
  const judge::Options options(
      argc, argv, {"seed", "threads", "seconds"}, {},
      "usage: pool_stress POOL-FILE [--seed N] [--threads 1, 2, 4 or 8] [--seconds N]");
  if (options.words.size() != 1) options.usage_error("one file, which is overwritten");
  Settings settings;
  settings.seed = judge::seed_of(options);
  settings.threads = options.number("threads", settings.threads);
  settings.seconds = options.number("seconds", settings.seconds);
  if (settings.threads == 0 || block_sectors % settings.threads != 0)
    options.usage_error("the threads must share a block of 8 sectors evenly");
  const judge::Fd file(
      open(options.words[0].c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  // Room for the disks and a part of the one that comes and goes.
  if (!file.valid() || ftruncate(file.get(), 60 << 20) < 0)
    judge::die("cannot make %s: %s", options.words[0].c_str(), std::strerror(errno));
  stress(options.words[0], settings);
}
