// stamp write|verify|scan|punch FILE: fills disks with sectors that say whose they
// are, verifies them, and looks for those of others.
//
//   write   stamps pieces of --piece bytes, one every --step bytes, in a random
//           order with --seed; prints what was written. Exit 3 on ENOSPC.
//   verify  every piece holds its stamp; with --gaps zero, everything else is zero
//   scan    not one 8-byte word of the file is the mark of --forbid
//   punch   random holes of 4 KiB .. --piece; prints the bytes that stay, counted
//           in blocks of 4 KiB. The file must be one that was written whole.
#include "tests/integration/stamp.h"

#include <sys/stat.h>

#include <algorithm>
#include <cinttypes>

#include "tests/lib/judge.h"

namespace {

using namespace judge;

constexpr std::uint64_t block = 4096;
constexpr std::size_t scan_step = 1 << 20;

struct Job {
  std::string path;
  std::uint64_t mark = 0, generation = 0, from = 0, length = 0, piece = 0, step = 0, seed = 0;
  bool direct = false, sync = false, gaps_zero = false;
};

Fd open_file(const Job& job, int flags) {
  Fd file(open(job.path.c_str(), flags | O_CLOEXEC | (job.direct ? O_DIRECT : 0)));
  if (!file.valid()) die("cannot open %s: %s", job.path.c_str(), std::strerror(errno));
  return file;
}

void stamp_range(const Job& job, std::uint64_t offset, unsigned char* data, std::uint64_t length) {
  for (std::uint64_t at = 0; at < length; at += sector_size)
    write_stamp(data + at, {job.mark, (offset + at) / sector_size, job.generation});
}

std::vector<std::uint64_t> places(const Job& job) {
  std::vector<std::uint64_t> list;
  for (std::uint64_t at = job.from; at < job.from + job.length; at += job.step) list.push_back(at);
  if (job.seed != 0) {
    Random random(job.seed);
    for (std::size_t i = list.size(); i > 1; i--) std::swap(list[i - 1], list[random.below(i)]);
  }
  return list;
}

int no_space(std::uint64_t written) {
  std::printf("written %" PRIu64 " then ENOSPC\n", written);
  return exit_no_space;
}

int do_write(const Job& job) {
  const Fd file = open_file(job, O_WRONLY);
  const auto buffer = aligned_buffer(job.piece);
  std::uint64_t written = 0;
  for (const std::uint64_t offset : places(job)) {
    const std::uint64_t length = std::min(job.piece, job.from + job.length - offset);
    stamp_range(job, offset, buffer.get(), length);
    for (std::uint64_t done = 0; done < length;) {
      const ssize_t put =
          pwrite(file.get(), buffer.get() + done, length - done, static_cast<off_t>(offset + done));
      if (put < 0 && errno == ENOSPC) return no_space(written);
      if (put <= 0)
        die("write at %" PRIu64 " of %s: %s", offset + done, job.path.c_str(),
            std::strerror(errno));
      done += static_cast<std::uint64_t>(put);
    }
    if (job.sync && fdatasync(file.get()) < 0) {
      if (errno == ENOSPC) return no_space(written);
      die("fdatasync of %s: %s", job.path.c_str(), std::strerror(errno));
    }
    written += length;
  }
  if (fsync(file.get()) < 0) {
    if (errno == ENOSPC) return no_space(0);
    die("fsync of %s: %s", job.path.c_str(), std::strerror(errno));
  }
  std::printf("written %" PRIu64 "\n", written);
  return 0;
}

void read_all(const Job& job, int file, unsigned char* data, std::uint64_t length,
              std::uint64_t offset) {
  for (std::uint64_t done = 0; done < length;) {
    const ssize_t got = pread(file, data + done, length - done, static_cast<off_t>(offset + done));
    if (got < 0)
      die("read at %" PRIu64 " of %s: %s", offset + done, job.path.c_str(), std::strerror(errno));
    if (got == 0) die("%s ends early, at %" PRIu64, job.path.c_str(), offset + done);
    done += static_cast<std::uint64_t>(got);
  }
}

[[noreturn]] void wrong_sector(const Job& job, std::uint64_t offset, const unsigned char* data,
                               const char* want) {
  const Stamp found = read_stamp(data);
  die("%s: sector at %" PRIu64 " must be %s; it %s (mark %016" PRIx64 "%s, sector %" PRIu64
      ", generation %" PRIu64 ")",
      job.path.c_str(), offset, want,
      all_zero(data, sector_size) ? "is zero"
      : is_stamp(data, found)     ? "is another stamp"
                                  : "is torn or foreign",
      found.mark, found.mark == job.mark ? ", its own" : "", found.sector, found.generation);
}

int do_verify(const Job& job) {
  const Fd file = open_file(job, O_RDONLY);
  const auto buffer = aligned_buffer(scan_step);
  std::uint64_t stamped = 0;
  const std::uint64_t end = job.from + job.length;
  for (std::uint64_t offset = job.from; offset < end; offset += scan_step) {
    const std::uint64_t length = std::min<std::uint64_t>(scan_step, end - offset);
    read_all(job, file.get(), buffer.get(), length, offset);
    for (std::uint64_t at = 0; at < length; at += sector_size) {
      const std::uint64_t place = offset + at;
      const bool inside = (place - job.from) % job.step < job.piece;
      if (inside && !is_stamp(buffer.get() + at, {job.mark, place / sector_size, job.generation}))
        wrong_sector(job, place, buffer.get() + at, "the stamp of its place");
      if (!inside && job.gaps_zero && !all_zero(buffer.get() + at, sector_size))
        wrong_sector(job, place, buffer.get() + at, "zero");
      stamped += inside ? sector_size : 0;
    }
  }
  std::printf("verified %" PRIu64 "\n", stamped);
  return 0;
}

int do_scan(const Job& job) {
  const Fd file = open_file(job, O_RDONLY);
  const auto buffer = aligned_buffer(scan_step);
  std::uint64_t offset = 0;
  for (;;) {
    const ssize_t got = pread(file.get(), buffer.get(), scan_step, static_cast<off_t>(offset));
    if (got < 0) die("read at %" PRIu64 ": %s", offset, std::strerror(errno));
    if (got == 0) break;
    for (std::size_t at = 0; at + 8 <= static_cast<std::size_t>(got); at += 8) {
      std::uint64_t word = 0;
      std::memcpy(&word, buffer.get() + at, 8);
      if (word == job.mark)
        die("%s shows another owner's data at %" PRIu64, job.path.c_str(), offset + at);
    }
    offset += static_cast<std::uint64_t>(got);
  }
  std::printf("scanned %" PRIu64 "\n", offset);
  return 0;
}

int do_punch(const Job& job, std::uint64_t count) {
  const Fd file = open_file(job, O_RDWR);
  Random random(job.seed);
  std::vector<bool> live((job.from + job.length) / block, true);
  for (std::uint64_t i = 0; i < count; i++) {
    const std::uint64_t length = (random.size_up_to(job.piece / block)) * block;
    const std::uint64_t offset = job.from + random.below(job.length / block) * block;
    const std::uint64_t fitting = std::min(length, job.from + job.length - offset);
    if (fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(offset), static_cast<off_t>(fitting)) < 0)
      die("punch at %" PRIu64 " of %s: %s", offset, job.path.c_str(), std::strerror(errno));
    for (std::uint64_t b = offset / block; b < (offset + fitting) / block; b++) live[b] = false;
  }
  // What stays must still be there, what was punched must be zero.
  const auto buffer = aligned_buffer(block);
  for (std::uint64_t b = job.from / block; b < live.size(); b++) {
    read_all(job, file.get(), buffer.get(), block, b * block);
    for (std::uint64_t at = 0; at < block; at += sector_size) {
      const Stamp want{job.mark, (b * block + at) / sector_size, job.generation};
      if (live[b] && !is_stamp(buffer.get() + at, want))
        wrong_sector(job, b * block + at, buffer.get() + at, "the stamp of its place");
      if (!live[b] && !all_zero(buffer.get() + at, sector_size))
        wrong_sector(job, b * block + at, buffer.get() + at, "zero");
    }
  }
  std::printf("live %" PRIu64 "\n",
              static_cast<std::uint64_t>(std::count(live.begin(), live.end(), true)) * block);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const Options options(
      argc, argv,
      {"tag", "generation", "from", "length", "piece", "step", "seed", "count", "forbid", "gaps"},
      {"direct", "sync"},
      "usage: stamp write|verify|scan|punch FILE [--tag OWNER] [--generation N] [--from OFFSET]\n"
      "       [--length BYTES] [--piece BYTES] [--step BYTES] [--seed N] [--count N]\n"
      "       [--forbid OWNER] [--gaps zero] [--direct] [--sync]");
  if (options.words.size() != 2) options.usage_error("a verb and a file");
  Job job;
  job.path = options.words[1];
  job.mark = mark_of(options.text(options.has("forbid") ? "forbid" : "tag", "nobody"));
  job.generation = options.number("generation", 1);
  job.from = options.number("from", 0);
  job.piece = options.number("piece", 1 << 20);
  job.step = options.number("step", job.piece);
  job.seed = options.number("seed", 0);
  job.direct = options.has("direct");
  job.sync = options.has("sync");
  job.gaps_zero = options.text("gaps") == "zero";
  struct stat status {};
  if (stat(job.path.c_str(), &status) < 0)
    die("cannot stat %s: %s", job.path.c_str(), std::strerror(errno));
  const auto size = static_cast<std::uint64_t>(status.st_size);
  job.length = options.number("length", size > job.from ? size - job.from : 0);
  const std::string verb = options.words[0];
  if (verb == "write") return do_write(job);
  if (verb == "verify") return do_verify(job);
  if (verb == "scan") return do_scan(job);
  if (verb == "punch") return do_punch(job, options.number("count", 1000));
  options.usage_error("unknown verb");
}
