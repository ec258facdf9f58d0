// Damage to a pool's metadata, and what opening and repairing make of it.
//
// The pool under test has all of its parts in use: two superblocks, a checkpoint of
// several pages, and a journal with batches that are in no checkpoint, as after a
// power loss. It is damaged in many ways: single flipped bits all over, sectors of
// the journal and pages of the checkpoint swapped or lost, the store cut short.
// Judged on each:
//   - opening gives an error of kind corrupt that names the pool, or exactly the
//     state that was there: names, attributes, maps and contents;
//   - repair brings a pool that opens and that check finds nothing in; where the
//     state is not what it was, the report says that something was lost;
//   - each block of a disk then holds what it held, or zeros: never what another wrote.
//
// The state is compared by names, attributes and maps; now and then, the contents
// are read, too.
#include <malloc.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "base/log.h"
#include "blockdev/journal_format.h"
#include "fs/pool/check.h"
#include "fs/pool/checkpoint_format.h"
#include "fs/pool/superblock.h"
#include "tests/lib/pool_driver.h"
#include "tests/lib/simulated_store.h"

using namespace tidepool;
using namespace tidepool::blockdev;
using namespace tidepool::pool;
using namespace tidepool::test;
using blockdev::IoOp;

namespace {

constexpr std::uint64_t pool_bytes = 48 * 1024 * 1024;
const std::string store_name = "damaged-image";

[[noreturn]] void die(const std::string& text) {
  std::printf("FAILED: %s\n", text.c_str());
  std::exit(1);
}

template <class T>
T must(Result<T> result, const char* what) {
  if (!result) die(std::string(what) + ": " + result.error().message);
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

std::shared_ptr<SimulatedStore> store_on(const SparseImage& image) {
  SimulatedStore::Options options;
  options.name = store_name;
  return SimulatedStore::open(image, options);
}

Result<std::unique_ptr<Pool>> open(std::shared_ptr<SimulatedStore> store, bool read_only) {
  PoolOptions options;
  options.read_only = read_only;
  options.background = false;
  return Pool::open(std::move(store), options);
}

// --- the state of a pool, as text ---

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

std::string state_of(Pool& pool) {
  std::string out;
  describe(out, pool, root_id, "");
  PoolFigures f = pool.figures();
  return out + fmt::format("{} {} {}\n", f.uuid, f.pool_bytes, f.used_bytes);
}

using Contents = std::map<NodeId, std::vector<std::byte>>;

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

// --- the pool under test ---

struct Subject {
  SparseImage image{0};
  Superblock superblock;
  std::uint64_t journal_end = 0;  // bytes of the journal in use
  std::string state;
  Contents contents;
};

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

// --- judging ---

class Judge {
 public:
  Judge(const Subject& subject, const Sabotage& sabotage)
      : subject_(subject), sabotage_(sabotage) {}

  // Opens and repairs `image`; `may_differ`: a second state that is right, too.
  void judge(const SparseImage& image, const std::string& what,
             const std::string* may_differ = nullptr) {
    ++judged_;
    auto opened = open(store_on(image), true);
    if (!opened) {
      ++errors_;
      check_error(opened.error(), what);
      if (errors_ % repair_every == 0) repair(image, what);
      return;
    }
    ++reads_;
    std::string state = state_of(**opened);
    if (state != subject_.state && (!may_differ || state != *may_differ))
      return failed(what, "opens with another state");
    if (may_differ) return;
    if (reads_ % 256 == 0 && contents_of(**opened) != subject_.contents)
      return failed(what, "reads another content");
    if (reads_ % 16 == 0) open_for_writing(image, what);
  }

  void judge_cut(std::uint64_t size) {
    SparseImage image = subject_.image;
    image.set_size(size);
    std::string what = fmt::format("cut to {} bytes", size);
    ++judged_;
    for (bool read_only : {true, false}) {
      auto opened = open(store_on(image), read_only);
      if (opened) return failed(what, "opens");
      bool nothing_left = size < 2 * Superblock::slot_stride;
      ErrorKind expected = nothing_left ? ErrorKind::invalid_argument : ErrorKind::corrupt;
      if (opened.error().kind != expected || !names_pool(opened.error()))
        failed(what, opened.error().message);
    }
    ++errors_;
    auto store = store_on(image);
    if (auto report = check_pool(*store, true); report) failed(what, "is repaired");
    if (!(store->newest() == image)) failed(what, "is changed by a repair that fails");
  }

  std::uint64_t repair_every = 8;  // errors; repairing takes longest

  std::uint64_t judged() const { return judged_; }
  std::uint64_t errors() const { return errors_; }
  std::uint64_t reads() const { return reads_; }
  std::uint64_t repairs() const { return repairs_; }
  std::uint64_t failures() const { return failures_; }

 private:
  void failed(const std::string& what, const std::string& why) {
    if (++failures_ <= 10) std::printf("FAILED: %s: %s\n", what.c_str(), why.c_str());
  }
  static bool names_pool(const Error& error) {
    return error.message.find(store_name) != std::string::npos;
  }
  void check_error(const Error& error, const std::string& what) {
    if (error.kind != ErrorKind::corrupt || !names_pool(error)) failed(what, error.message);
  }

  // Opening for writing mends what a second copy makes good.
  void open_for_writing(const SparseImage& image, const std::string& what) {
    auto store = store_on(image);
    {
      auto opened = open(store, false);
      if (!opened) return failed(what, "opens for reading only: " + opened.error().message);
    }
    auto report = check_pool(*store, false);
    if (!report) return failed(what, report.error().message);
    if (!report->findings.empty()) failed(what, "is not mended: " + report->findings.front());
    auto again = open(store, true);
    if (!again || state_of(**again) != subject_.state) failed(what, "is another pool when mended");
  }

  void repair(const SparseImage& image, const std::string& what) {
    ++repairs_;
    auto store = store_on(image);
    auto report = check_pool(*store, true, sabotage_);
    if (!report) return failed(what, "cannot be repaired: " + report.error().message);
    if (report->findings.empty()) return failed(what, "check finds nothing in it");
    auto after = check_pool(*store, false);
    if (!after) return failed(what, "is no pool after repair: " + after.error().message);
    if (!after->findings.empty()) failed(what, "after repair: " + after->findings.front());
    if (after->leaked_bytes != 0) failed(what, "after repair, lost data is still on the host");
    auto opened = open(store, false);
    if (!opened) return failed(what, "after repair: " + opened.error().message);
    if (report->losses.empty() && state_of(**opened) != subject_.state)
      failed(what, "something was lost and the report does not say so");
    for (const auto& [id, data] : contents_of(**opened))
      if (!is_own_or_zeros(id, data)) failed(what, "after repair, a disk shows foreign bytes");
    use(**opened, what);
  }

  bool is_own_or_zeros(NodeId disk, const std::vector<std::byte>& data) const {
    static const std::vector<std::byte> zeros(block_size);
    auto own = subject_.contents.find(disk);
    for (std::size_t at = 0; at < data.size(); at += block_size) {
      std::size_t size = std::min<std::size_t>(block_size, data.size() - at);
      bool as_it_was = own != subject_.contents.end() && at + size <= own->second.size() &&
                       std::memcmp(&data[at], &own->second[at], size) == 0;
      if (!as_it_was && std::memcmp(&data[at], zeros.data(), size) != 0) return false;
    }
    return true;
  }

  // A repaired pool can be used, to its last block.
  void use(Pool& pool, const std::string& what) {
    PoolDriver driver(pool);
    auto vm = pool.make_vm("newcomer", 0700, 0, 0);
    if (!vm) return failed(what, vm.error().message);
    Disk* disk = must(pool.hold(must(pool.make_disk(vm->id, "d", 0600, 0, 0), "make").id), "hold");
    std::vector<std::byte> data(must(pool.space(vm->id), "space").available, std::byte{0xee});
    if (driver.write(*disk, 0, data) != 0) failed(what, "after repair, space cannot be had");
    std::vector<std::byte> back(data.size());
    if (driver.read(*disk, 0, back) != 0 || back != data) failed(what, "after repair, reads wrong");
    if (driver.flush(*disk) != 0) failed(what, "after repair, does not flush");
    pool.release(disk);
  }

  const Subject& subject_;
  const Sabotage sabotage_;
  std::uint64_t judged_ = 0, errors_ = 0, reads_ = 0, repairs_ = 0, failures_ = 0;
};

// --- damaging ---

struct Place {
  std::uint64_t offset, length;
  const char* name;
};

void flip(const Subject& subject, Judge& judge, std::mt19937_64& random, std::uint64_t flips) {
  const Superblock& s = subject.superblock;
  const Area& checkpoint = s.checkpoints[s.active_checkpoint];
  const Place places[] = {
      {0, Superblock::encoded_size, "superblock 0"},
      {Superblock::slot_stride, Superblock::encoded_size, "superblock 1"},
      {0, s.journal.offset, "header"},
      {s.journal.offset, subject.journal_end, "journal"},
      {s.journal.offset, s.journal.length, "journal area"},
      {checkpoint.offset, s.checkpoint_pages * page_bytes, "checkpoint"},
      {checkpoint.offset, checkpoint.length, "checkpoint area"},
  };
  for (std::uint64_t i = 0; i < flips; ++i) {
    const Place& place = places[i % std::size(places)];
    std::uint64_t at = place.offset + random() % place.length;
    std::byte byte{};
    SparseImage image = subject.image;
    image.read(at, {&byte, 1});
    byte ^= std::byte{1} << random() % 8;
    image.write(at, {&byte, 1});
    judge.judge(image, fmt::format("flip at {} ({})", at, place.name));
  }
}

std::vector<std::byte> bytes_at(const SparseImage& image, std::uint64_t at, std::size_t size) {
  std::vector<std::byte> data(size);
  image.read(at, data);
  return data;
}

void swap(const Subject& subject, Judge& judge, std::uint64_t a, std::uint64_t b,
          std::size_t size) {
  SparseImage image = subject.image;
  image.write(a, bytes_at(subject.image, b, size));
  image.write(b, bytes_at(subject.image, a, size));
  judge.judge(image, fmt::format("{} bytes swapped at {} and {}", size, a, b));
}

void damage_journal(const Subject& subject, Judge& judge, std::mt19937_64& random) {
  const Area& journal = subject.superblock.journal;
  std::vector<std::uint64_t> sectors;  // that hold something
  std::uint64_t last_batch = 0;        // where it begins
  for (std::uint64_t at = 0; at < subject.journal_end; at += journal_sector_bytes) {
    auto sector = bytes_at(subject.image, journal.offset + at, journal_sector_bytes);
    if (std::ranges::all_of(sector, [](std::byte b) { return b == std::byte{0}; })) continue;
    sectors.push_back(journal.offset + at);
    std::uint32_t index = 0;
    std::memcpy(&index, sector.data() + 16, sizeof index);
    if (index == 0) last_batch = journal.offset + at;
  }
  for (int i = 0; i < 400; ++i) {
    std::uint64_t a = sectors[random() % sectors.size()], b = sectors[random() % sectors.size()];
    if (a != b) swap(subject, judge, a, b, journal_sector_bytes);
  }
  for (std::uint64_t i = 0; i < 100; ++i) {  // units, which are whole batches mostly
    std::uint64_t units = subject.journal_end / journal_unit_bytes;
    std::uint64_t a = random() % units, b = random() % units;
    if (a != b)
      swap(subject, judge, journal.offset + a * journal_unit_bytes,
           journal.offset + b * journal_unit_bytes, journal_unit_bytes);
  }
  // The last batch lost in whole or in part looks as if the power had gone before
  // it was stable; any other cannot be missing.
  SparseImage without_last = subject.image;
  without_last.clear(last_batch, journal.offset + subject.journal_end - last_batch);
  std::string before = state_of(*must(open(store_on(without_last), true), "open"));
  for (std::uint64_t sector : sectors) {
    SparseImage image = subject.image;
    image.clear(sector, journal_sector_bytes);
    judge.judge(image, fmt::format("journal sector lost at {}", sector),
                sector >= last_batch ? &before : nullptr);
  }
}

void damage_checkpoint(const Subject& subject, Judge& judge) {
  const Superblock& s = subject.superblock;
  const Area& area = s.checkpoints[s.active_checkpoint];
  for (std::uint64_t a = 0; a < s.checkpoint_pages; ++a) {
    for (std::uint64_t b = 0; b < a; ++b)
      swap(subject, judge, area.offset + a * page_bytes, area.offset + b * page_bytes, page_bytes);
    SparseImage lost = subject.image, halved = subject.image;
    lost.clear(area.offset + a * page_bytes, page_bytes);
    judge.judge(lost, fmt::format("checkpoint page {} lost", a));
    halved.clear(area.offset + a * page_bytes + page_bytes / 2, page_bytes / 2);
    judge.judge(halved, fmt::format("half of checkpoint page {} lost", a));
  }
}

void cut(const Subject& subject, Judge& judge, std::mt19937_64& random) {
  const Superblock& s = subject.superblock;
  for (std::uint64_t size :
       {std::uint64_t{0}, std::uint64_t{512}, std::uint64_t{4096}, std::uint64_t{8192},
        s.journal.offset, s.journal.offset + s.journal.length, s.checkpoints[0].offset + 4096,
        pool_bytes - 512, pool_bytes - s.chunk_bytes})
    judge.judge_cut(size);
  for (int i = 0; i < 50; ++i) judge.judge_cut(random() % (pool_bytes / 512) * 512);
}

// What the older superblock points to is complete as long as it may be needed.
void lose_superblocks(const Subject& subject, Judge& judge) {
  for (std::uint64_t slot : {0, 1}) {
    SparseImage image = subject.image;
    image.clear(slot * Superblock::slot_stride, Superblock::slot_stride);
    judge.judge(image, fmt::format("superblock {} lost", slot));
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::uint64_t flips = 10'000, seed = 1;
  Sabotage sabotage;
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string arg = argv[i];
    if (arg == "--flips")
      flips = std::stoull(argv[i + 1]);
    else if (arg == "--seed")
      seed = std::stoull(argv[i + 1]);
    else if (arg == "--expect-red" && argv[i + 1] == std::string("doubtful"))
      sabotage.keep_doubtful_mappings = true;
    else
      return std::fprintf(stderr, "usage: %s [--flips N] [--seed S] [--expect-red doubtful]\n",
                          argv[0]),
             2;
  }
  // Much memory comes and goes; the system calls for it would be half the time.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  log().set_level(spdlog::level::off);
  Subject subject = make_subject(seed);
  std::printf("seed %llu; %llu bytes of journal, %llu checkpoint pages\n",
              static_cast<unsigned long long>(seed),
              static_cast<unsigned long long>(subject.journal_end),
              static_cast<unsigned long long>(subject.superblock.checkpoint_pages));
  std::mt19937_64 random(seed);
  Judge judge(subject, sabotage);
  auto tell = [&, judged = std::uint64_t{0}, errors = std::uint64_t{0},
               reads = std::uint64_t{0}](const char* what) mutable {
    std::printf("%s: %llu judged, %llu errors, %llu reads\n", what,
                static_cast<unsigned long long>(judge.judged() - judged),
                static_cast<unsigned long long>(judge.errors() - errors),
                static_cast<unsigned long long>(judge.reads() - reads));
    std::fflush(stdout);
    judged = judge.judged(), errors = judge.errors(), reads = judge.reads();
  };
  flip(subject, judge, random, flips);
  tell("flipped bits");
  judge.repair_every = 2;
  lose_superblocks(subject, judge);
  tell("lost superblocks");
  damage_journal(subject, judge, random);
  tell("journal swapped and lost");
  damage_checkpoint(subject, judge);
  tell("checkpoint swapped and lost");
  cut(subject, judge, random);
  tell("cut short");
  std::printf("%llu judged, %llu repaired, %llu failed\n",
              static_cast<unsigned long long>(judge.judged()),
              static_cast<unsigned long long>(judge.repairs()),
              static_cast<unsigned long long>(judge.failures()));
  return (judge.failures() > 0) == sabotage.keep_doubtful_mappings ? 0 : 1;
}
