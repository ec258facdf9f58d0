// Power losses at generated points under a random load, and what recovery makes
// of them.
//
// A run drives three VMs' disks with tagged sectors until the power goes at a
// chosen change of the store; several images of what could be on it then are
// recovered, some with a second power loss during recovery. Judged on each:
//   - recovery succeeds, check finds nothing;
//   - each sector holds what was flushed last or something written since;
//   - no sector holds another disk's tag, nor does one that a newcomer reads after
//     touching single sectors all over the pool;
//   - what was flushed exists under its name, with its size;
//   - all space is accounted for: free + used = data space.
//
// --sabotage takes one protection away, --expect-red then asks for failures.
#include <malloc.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "base/log.h"
#include "fs/pool/check.h"
#include "tests/lib/pool_driver.h"
#include "tests/lib/simulated_store.h"

using namespace tidepool;
using namespace tidepool::pool;
using namespace tidepool::test;
using blockdev::IoOp;

namespace {

constexpr std::uint64_t pool_bytes = 16 * 1024 * 1024;
constexpr std::uint64_t disk_limit = 512 * 1024;
constexpr std::uint64_t sector_bytes = 512;
constexpr std::uint64_t tag_magic = 0x7469'6465'706f'6f6c;

struct Tag {
  std::uint64_t magic, disk, sector, sequence;
};

// What one sector may hold: what the last flush left, and all since. 0 = zeros.
struct SectorModel {
  std::uint64_t flushed = 0;
  std::vector<std::uint64_t> since;
};

struct DiskModel {
  NodeId id = 0;
  Disk* handle = nullptr;  // while it has a name
  bool flushed_exists = false, exists = true;
  std::set<std::string> flushed_names, names;  // "vm/disk": allowed after a crash
  std::string name;
  std::uint64_t size = 0;
  std::set<std::uint64_t> sizes;  // allowed
  std::map<std::uint64_t, SectorModel> sectors;
};

class Failure : public std::exception {
 public:
  explicit Failure(std::string text) : text_(std::move(text)) {}
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  std::string text_;
};

class Run {
 public:
  Run(std::uint64_t seed, const Sabotage& sabotage) : random_(seed), sabotage_(sabotage) {}

  // Runs the load until the power goes; the store then holds the crash.
  std::shared_ptr<SimulatedStore> load(const SparseImage& empty, std::uint64_t crash_at,
                                       unsigned operations) {
    auto store = SimulatedStore::open(empty);
    store->set_crash_at(crash_at);
    PoolOptions options;
    options.background = false;
    options.sabotage = sabotage_;
    auto opened = Pool::open(store, options);
    if (!opened) return store;  // the power went during the opening
    auto pool = std::move(*opened);
    PoolDriver driver(*pool);
    for (const char* vm : {"a", "b", "c"})
      if (auto made = pool->make_vm(vm, 0700, 0, 0)) vms_.push_back({vm, made->id});
    for (unsigned i = 0; i < operations && !store->crashed(); ++i) step(*pool, driver);
    for (auto& [id, disk] : disks_)
      if (disk.handle) pool->release(std::exchange(disk.handle, nullptr));
    if (!store->crashed()) store->set_crash_at(1);  // the end of the load is a crash point, too
    return store;
  }

  void judge(const SparseImage& image) {
    auto store = SimulatedStore::open(image);
    auto report = check_pool(*store, false);
    if (!report) throw Failure("check: " + report.error().message);
    if (!report->findings.empty()) throw Failure("check found: " + report->findings.front());
    PoolOptions options;
    options.background = false;
    auto opened = Pool::open(store, options);
    if (!opened) throw Failure("recovery: " + opened.error().message);
    Pool& pool = **opened;
    PoolDriver driver(pool);
    std::set<NodeId> found;
    judge_names(pool, driver, found);
    for (const auto& [id, disk] : disks_)
      if (disk.flushed_exists && disk.exists && !found.contains(id))
        throw Failure("flushed disk " + disk.name + " is gone");
    if (auto r = pool.release_freed(); !r) throw Failure("release: " + r.error().message);
    intrude(pool, driver);
  }

 private:
  std::uint64_t pick(std::uint64_t below) {
    return std::uniform_int_distribution<std::uint64_t>(0, below - 1)(random_);
  }

  DiskModel* any_disk() {
    std::vector<DiskModel*> live;
    for (auto& [id, disk] : disks_)
      if (disk.handle) live.push_back(&disk);
    return live.empty() ? nullptr : live[pick(live.size())];
  }

  void step(Pool& pool, PoolDriver& driver) {
    std::uint64_t what = pick(100);
    DiskModel* disk = any_disk();
    if (!disk || what < 3) return create(pool);
    std::uint64_t sectors = disk_limit / sector_bytes;
    std::uint64_t sector = pick(sectors);
    std::uint64_t count = std::min(1 + pick(pick(4) == 0 ? 400 : 24), sectors - sector);
    if (what < 62) return write(driver, *disk, sector, count);
    if (what < 76) return change(driver, *disk, IoOp::discard, sector, count);
    if (what < 80) return change(driver, *disk, IoOp::zero, sector, count);
    if (what < 82) return change(driver, *disk, IoOp::allocate, sector, count);
    if (what < 84) return truncate(driver, *disk, sector);
    if (what < 86) return remove(pool, *disk);
    if (what < 88) return rename(pool, *disk);
    if (driver.flush(*disk->handle) != 0) return;
    flushed();
    if (pick(2) == 0 && pool.release_freed()) flushed();  // as the commit thread does
  }

  void create(Pool& pool) {
    if (vms_.empty()) return;
    auto& [vm, vm_id] = vms_[pick(vms_.size())];
    std::string name = "d" + std::to_string(pick(3));
    auto made = pool.make_disk(vm_id, name, 0600, 0, 0);
    if (!made) return;
    DiskModel& disk = disks_[made->id];
    disk.id = made->id;
    disk.name = vm + "/" + name;
    disk.names = {disk.name};
    disk.sizes = {0};
    disk.handle = *pool.hold(made->id);
  }

  void write(PoolDriver& driver, DiskModel& disk, std::uint64_t sector, std::uint64_t count) {
    std::vector<std::byte> data(count * sector_bytes);
    std::uint64_t sequence = ++sequence_;
    for (std::uint64_t i = 0; i < count; ++i) {
      Tag tag{tag_magic, disk.id, sector + i, sequence};
      for (std::uint64_t at = 0; at < sector_bytes; at += sizeof tag)
        std::memcpy(&data[i * sector_bytes + at], &tag, sizeof tag);
      disk.sectors[sector + i].since.push_back(sequence);
    }
    std::uint64_t end = (sector + count) * sector_bytes;
    if (end > disk.size) disk.sizes.insert(end);
    int error = driver.write(*disk.handle, sector * sector_bytes, data);
    if (error == 0) disk.size = std::max(disk.size, end);
  }

  void change(PoolDriver& driver, DiskModel& disk, IoOp op, std::uint64_t sector,
              std::uint64_t count) {
    if (op != IoOp::allocate)
      for (std::uint64_t i = 0; i < count; ++i) disk.sectors[sector + i].since.push_back(0);
    driver.change(*disk.handle, op, sector * sector_bytes, count * sector_bytes);
  }

  void truncate(PoolDriver& driver, DiskModel& disk, std::uint64_t sector) {
    std::uint64_t size = sector * sector_bytes;
    for (auto& [at, model] : disk.sectors)
      if (at >= sector) model.since.push_back(0);
    disk.sizes.insert(size);
    if (driver.truncate(*disk.handle, disk.size, size) == 0) disk.size = size;
  }

  void remove(Pool& pool, DiskModel& disk) {
    auto slash = disk.name.find('/');
    disk.exists = false;
    pool.remove_disk(vm_of(disk), disk.name.substr(slash + 1));
    pool.release(std::exchange(disk.handle, nullptr));
  }

  void rename(Pool& pool, DiskModel& disk) {
    auto& [vm, vm_id] = vms_[pick(vms_.size())];
    std::string name = "d" + std::to_string(pick(3)), to = vm + "/" + name;
    if (to == disk.name) return;
    for (auto& [id, other] : disks_) {
      if (!other.handle || other.name != to) continue;
      other.exists = false;
      pool.release(std::exchange(other.handle, nullptr));
    }
    disk.names.insert(to);
    auto slash = disk.name.find('/');
    if (pool.rename(vm_of(disk), disk.name.substr(slash + 1), vm_id, name, false)) disk.name = to;
  }

  NodeId vm_of(const DiskModel& disk) const {
    for (const auto& [vm, id] : vms_)
      if (disk.name.starts_with(vm + "/")) return id;
    return 0;
  }

  void flushed() {
    for (auto it = disks_.begin(); it != disks_.end();) {
      DiskModel& disk = it->second;
      if (!disk.exists) {
        it = disks_.erase(it);
        continue;
      }
      disk.flushed_exists = true;
      disk.names = {disk.name};
      disk.sizes = {disk.size};
      for (auto& [at, sector] : disk.sectors) {
        if (!sector.since.empty()) sector.flushed = sector.since.back();
        sector.since.clear();
      }
      ++it;
    }
  }

  // --- judging ---

  void judge_names(Pool& pool, PoolDriver& driver, std::set<NodeId>& found) {
    auto vms = pool.list(root_id);
    for (const auto& vm : *vms) {
      auto entries = pool.list(vm.id);
      for (const auto& entry : *entries) {
        std::string name = vm.name + "/" + entry.name;
        auto model = disks_.find(entry.id);
        if (model == disks_.end()) throw Failure("disk " + name + " was never made");
        found.insert(entry.id);
        if (!model->second.names.contains(name)) throw Failure("disk has the wrong name " + name);
        judge_content(pool, driver, name, model->second);
      }
    }
  }

  void judge_content(Pool& pool, PoolDriver& driver, const std::string& name,
                     const DiskModel& disk) {
    std::uint64_t size = pool.attributes(disk.id)->size;
    if (!disk.sizes.contains(size))
      throw Failure("disk " + name + " has the wrong size " + std::to_string(size));
    std::vector<std::byte> data(size);
    Disk* handle = *pool.hold(disk.id);
    int error = driver.read(*handle, 0, data);
    pool.release(handle);
    if (error != 0) throw Failure("reading " + name + ": " + std::strerror(error));
    for (std::uint64_t sector = 0; sector < size / sector_bytes; ++sector) {
      const std::byte* at = data.data() + sector * sector_bytes;
      std::string where = "disk " + name + " sector " + std::to_string(sector);
      std::uint64_t sequence = sequence_of(at, disk.id, sector, where);
      auto model = disk.sectors.find(sector);
      SectorModel untouched;
      const SectorModel& allowed = model == disk.sectors.end() ? untouched : model->second;
      bool fits = sequence == allowed.flushed;
      for (std::uint64_t since : allowed.since) fits |= sequence == since;
      if (!fits)
        throw Failure(where + " holds write " + std::to_string(sequence) + ", flushed was " +
                      std::to_string(allowed.flushed));
    }
  }

  std::uint64_t sequence_of(const std::byte* at, NodeId disk, std::uint64_t sector,
                            const std::string& where) {
    Tag first;
    std::memcpy(&first, at, sizeof first);
    for (std::uint64_t i = 0; i < sector_bytes; i += sizeof first)
      if (std::memcmp(at + i, &first, sizeof first) != 0) throw Failure(where + " is mixed");
    Tag zeros{};
    if (std::memcmp(&first, &zeros, sizeof first) == 0) return 0;
    if (first.magic != tag_magic) throw Failure(where + " holds garbage");
    if (first.disk != disk || first.sector != sector)
      throw Failure(where + " holds sector " + std::to_string(first.sector) + " of disk " +
                    std::to_string(first.disk));
    return first.sequence;
  }

  // A newcomer takes all free blocks by writing one sector into each, and reads.
  void intrude(Pool& pool, PoolDriver& driver) {
    auto vm = pool.make_vm("intruder", 0700, 0, 0);
    auto made = pool.make_disk(vm->id, "scratch", 0600, 0, 0);
    Disk* disk = *pool.hold(made->id);
    PoolFigures before = pool.figures();
    std::uint64_t free_blocks = (before.data_bytes - before.used_bytes) / block_size;
    std::vector<std::byte> mark(sector_bytes, std::byte{0xee});
    std::uint64_t block = 0;
    for (; block < free_blocks; ++block) {
      std::uint64_t sector = block % 8;
      if (driver.write(*disk, block * block_size + sector * sector_bytes, mark) != 0) break;
    }
    if (block != free_blocks)
      throw Failure("only " + std::to_string(block) + " of " + std::to_string(free_blocks) +
                    " free blocks can be had");
    if (driver.write(*disk, (block + 8) * block_size, mark) != ENOSPC)
      throw Failure("there are more blocks than there should be");
    std::vector<std::byte> data(free_blocks * block_size), zeros(sector_bytes);
    if (driver.read(*disk, 0, data) != 0) throw Failure("intruder cannot read");
    for (std::uint64_t sector = 0; sector < free_blocks * 8; ++sector) {
      const auto& expected = sector % 8 == sector / 8 % 8 ? mark : zeros;
      if (std::memcmp(&data[sector * sector_bytes], expected.data(), sector_bytes) != 0)
        throw Failure("a newcomer reads what another disk left, sector " + std::to_string(sector));
    }
    pool.release(disk);
  }

  std::mt19937_64 random_;
  Sabotage sabotage_;
  std::uint64_t sequence_ = 0;
  std::vector<std::pair<std::string, NodeId>> vms_;
  std::map<NodeId, DiskModel> disks_;
};

SparseImage empty_pool() {
  auto store = SimulatedStore::open(pool_bytes);
  CreateOptions options;
  options.chunk_bytes = 64 * 1024;
  if (auto r = Pool::create(*store, options); !r) {
    std::fprintf(stderr, "%s\n", r.error().message.c_str());
    std::exit(1);
  }
  return store->newest();
}

// One more power loss, during the recovery from the first.
SparseImage crash_recovery(const SparseImage& image, std::uint64_t seed) {
  auto store = SimulatedStore::open(image);
  store->set_crash_at(1 + seed % 12);
  PoolOptions options;
  options.background = false;
  { auto ignored = Pool::open(store, options); }
  return store->crash(seed);
}

}  // namespace

int main(int argc, char** argv) {
  std::uint64_t points = 5000, seed = 1;
  Sabotage sabotage;
  bool expect_red = false, single = false;
  for (int i = 1; i < argc; ++i) {
    std::string arg = argv[i];
    std::string value = i + 1 < argc ? argv[i + 1] : "";
    if (arg == "--points")
      points = std::stoull(value), ++i;
    else if (arg == "--seed")
      seed = std::stoull(value), ++i;
    else if (arg == "--only")
      seed = std::stoull(value), single = true, ++i;
    else if (arg == "--expect-red")
      expect_red = true;
    else if (arg == "--sabotage") {
      sabotage.skip_data_barrier = value == "data-barrier";
      sabotage.skip_journal_barrier = value == "journal-barrier";
      sabotage.reuse_before_commit = value == "reuse";
      sabotage.expose_old_content = value == "expose";
      ++i;
    } else {
      std::fprintf(stderr,
                   "usage: %s [--points N] [--seed S] [--only S] [--sabotage data-barrier|"
                   "journal-barrier|reuse|expose] [--expect-red]\n",
                   argv[0]);
      return 2;
    }
  }
  // Much memory comes and goes; the system calls for it would be half the time.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  log().set_level(spdlog::level::off);  // losing power is the point here
  constexpr std::uint64_t images_per_run = 10;
  SparseImage empty = empty_pool();
  std::uint64_t judged = 0, failures = 0;
  std::printf("seed %llu, %llu crash points\n", static_cast<unsigned long long>(seed),
              static_cast<unsigned long long>(points));
  for (std::uint64_t run_seed = seed; judged < points; ++run_seed) {
    std::mt19937_64 random(run_seed);
    Run run(run_seed, sabotage);
    auto store = run.load(empty, 20 + random() % 600, 400);
    for (std::uint64_t i = 0; i < images_per_run && judged < points; ++i, ++judged) {
      SparseImage image = store->crash(random(), static_cast<CrashMode>(i % crash_mode_count));
      if (i == 9) image = crash_recovery(image, random());
      try {
        run.judge(image);
      } catch (const Failure& failure) {
        if (failures++ < 5)
          std::printf("FAILED at --only %llu, image %llu: %s\n",
                      static_cast<unsigned long long>(run_seed), static_cast<unsigned long long>(i),
                      failure.what());
      }
    }
    if (single || (expect_red && failures > 0)) break;
  }
  std::printf("%llu crash points judged, %llu failed\n", static_cast<unsigned long long>(judged),
              static_cast<unsigned long long>(failures));
  return (failures > 0) == expect_red ? 0 : 1;
}
