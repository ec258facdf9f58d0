// Damage to a pool's metadata, and what opening and repairing make of it.
//
// The pool under test (flip_subject.h) is damaged in many ways: single flipped bits all
// over, sectors of the journal and pages of the checkpoint swapped or lost, the store cut
// short. Judged on each:
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
#include "tests/crash/flip_subject.h"

using namespace tidepool;
using namespace tidepool::blockdev;
using namespace tidepool::pool;
using namespace tidepool::test;

namespace {

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
    return error.message.find(damaged_name) != std::string::npos;
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
