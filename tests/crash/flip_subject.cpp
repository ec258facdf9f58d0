#include "tests/crash/flip_subject.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <random>

namespace tidepool::test {

using namespace blockdev;
using namespace pool;

namespace {

void describe(std::string& out, Pool& pool, NodeId id, const std::string& path) {
  Attributes a = must(pool.attributes(id), "attributes");
  out +=
      fmt::format("{} {} {} {:o} {} {} {} {} {} {} {}\n", path, a.id, a.size, a.mode, a.uid, a.gid,
                  a.allocated_bytes, a.children, a.times.modify, a.times.change, a.times.birth);
  if (a.kind == NodeKind::disk) {
    Disk* disk = must(pool.hold(id), "hold");
    must(pool.locate(*disk, 0, a.size,
                     [&](const blockdev::Range& r) {
                       if (r.kind == blockdev::RangeKind::hole) return true;
                       out += fmt::format(" {}+{}{}{}", r.offset, r.length,
                                          r.kind == blockdev::RangeKind::data ? "=" : "~",
                                          r.leaf_offset);
                       return true;
                     }),
         "locate");
    pool.release(disk);
    return;
  }
  if (a.kind == NodeKind::vm) {
    VmSettings s = must(pool.vm_settings(id), "settings");
    out += fmt::format(" {} {} {}\n", s.quota, s.reserve, static_cast<int>(s.durability));
  }
  for (const auto& entry : must(pool.list(id), "list"))
    describe(out, pool, entry.id, path + "/" + entry.name);
}

void load(Pool& pool, std::mt19937_64& random, unsigned steps) {
  PoolDriver driver(pool);
  struct Open {
    Disk* disk;
    NodeId id, vm;
    std::string name;
  };
  std::vector<Open> disks;
  for (const auto& vm : must(pool.list(root_id), "list"))
    for (const auto& entry : must(pool.list(vm.id), "list"))
      disks.push_back({must(pool.hold(entry.id), "hold"), entry.id, vm.id, entry.name});
  for (unsigned i = 0; i < steps; ++i) {
    Open& open = disks[random() % disks.size()];
    std::uint64_t block = random() % 3000, count = 1 + random() % 4;
    std::vector<std::byte> data(count * block_size, static_cast<std::byte>(random() | 1));
    switch (random() % 8) {
      case 0:
        driver.change(*open.disk, IoOp::discard, block * block_size, data.size());
        break;
      case 1:
        driver.change(*open.disk, IoOp::zero, block * block_size, data.size());
        break;
      case 2:
        pool.set_attributes(open.id, {.mode = static_cast<std::uint32_t>(random() % 0777)});
        break;
      default:
        driver.write(*open.disk, block * block_size, data);
    }
    if (i % 23 == 0) must(pool.release_freed(), "commit");  // what was freed is used again
  }
  must(pool.rename(disks[0].vm, disks[0].name, disks.back().vm, "renamed", false), "rename");
  must(pool.remove_disk(disks[1].vm, disks[1].name), "remove");
  for (Open& open : disks) pool.release(open.disk);
  must(pool.commit(), "commit");
}

Superblock read_superblock(const SparseImage& image) {
  std::vector<std::byte> slot(Superblock::encoded_size);
  image.read(0, slot);
  Superblock s;
  if (decode(slot, s) != SlotState::valid) die("the subject has no superblock");
  return s;
}

}  // namespace

[[noreturn]] void die(const std::string& text) {
  std::printf("FAILED: %s\n", text.c_str());
  std::exit(1);
}

std::shared_ptr<SimulatedStore> store_on(const SparseImage& image) {
  SimulatedStore::Options options;
  options.name = damaged_name;
  return SimulatedStore::open(image, options);
}

Result<std::unique_ptr<Pool>> open(std::shared_ptr<SimulatedStore> store, bool read_only) {
  PoolOptions options;
  options.read_only = read_only;
  options.background = false;
  return Pool::open(std::move(store), options);
}

std::string state_of(Pool& pool) {
  std::string out;
  describe(out, pool, root_id, "");
  PoolFigures f = pool.figures();
  return out + fmt::format("{} {} {}\n", f.uuid, f.pool_bytes, f.used_bytes);
}

Contents contents_of(Pool& pool) {
  Contents out;
  PoolDriver driver(pool);
  for (const auto& vm : must(pool.list(root_id), "list"))
    for (const auto& entry : must(pool.list(vm.id), "list")) {
      std::vector<std::byte> data(must(pool.attributes(entry.id), "attributes").size);
      Disk* disk = must(pool.hold(entry.id), "hold");
      if (driver.read(*disk, 0, data) != 0) die("reading " + entry.name);
      pool.release(disk);
      out[entry.id] = std::move(data);
    }
  return out;
}

Subject make_subject(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  auto store = SimulatedStore::open(pool_bytes);
  must(Pool::create(*store, {.size = 0, .chunk_bytes = 64 * 1024}), "create");
  {
    auto pool = must(open(store, false), "open");
    for (const char* vm : {"web", "database", "build"}) {
      NodeId id = must(pool->make_vm(vm, 0700, 1, 2), "make").id;
      for (const char* name : {"root", "scratch", "swap"})
        must(pool->make_disk(id, name, 0600, 3, 4), "make");
      must(pool->set_vm_settings(id, {.quota = 1 << 30, .reserve = 64 * 1024}), "settings");
    }
    // Every other block, so that no two extents join and the checkpoint has several pages.
    PoolDriver driver(*pool);
    std::vector<std::byte> block(block_size, std::byte{0x77});
    NodeId vm = must(pool->lookup(root_id, "web"), "lookup").id;
    Disk* scattered =
        must(pool->hold(must(pool->make_disk(vm, "scattered", 0600, 0, 0), "make").id), "hold");
    for (std::uint64_t i = 0; i < 7000; ++i)
      if (driver.write(*scattered, i * 2 * block_size, block) != 0) die("scattering");
    pool->release(scattered);
  }
  std::shared_ptr<SimulatedStore> used = store_on(store->newest());
  Subject subject;
  {
    auto pool = must(open(used, false), "open");  // a checkpoint of all that
    load(*pool, random, 400);
    if (pool->figures().checkpoints != 1) die("the journal did not hold the load");
    subject.journal_end = pool->figures().journal_bytes;
    subject.image = used->crash(seed, CrashMode::drop_all);
  }
  subject.superblock = read_superblock(subject.image);
  auto pool = must(open(store_on(subject.image), true), "open the subject");
  if (pool->figures().recovered_records == 0) die("the subject's journal is empty");
  if (subject.superblock.checkpoint_pages < 2) die("the subject's checkpoint has one page");
  subject.state = state_of(*pool);
  subject.contents = contents_of(*pool);
  return subject;
}

}  // namespace tidepool::test
