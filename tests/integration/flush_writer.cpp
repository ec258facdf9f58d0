// flush_writer run|verify DIRECTORY LOGS: writers that remember what was flushed.
//
//   run     per thread one disk of DIRECTORY: stamped writes of 512 bytes to 256
//           KiB, cached and direct, and punches, an fsync now and then; one more
//           thread makes and removes small disks. Until --seconds have passed
//           (exit 0) or the mount is gone (exit 4).
//   verify  no sector differs from what was acknowledged or issued after it, none
//           is torn or foreign; what is found is the start of the next run.
#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cinttypes>
#include <ctime>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#include "tests/integration/flush_log.h"
#include "tests/integration/stamp.h"
#include "tests/lib/judge.h"

namespace {

using namespace judge;

struct Settings {
  std::string directory, logs;
  std::uint64_t seed = 1, threads = 4, size = 64 << 20;
  std::uint64_t seconds = 10;
  std::uint64_t small_disks = 12;
};

constexpr std::uint64_t largest_write = 256 << 10;
constexpr std::uint64_t sectors_per_block = 8;

std::atomic<bool> gone{false};

// The daemon was killed: what a dead FUSE mount answers.
bool is_gone(int error) {
  return error == ECANCELED || error == ENOTCONN || error == ECONNABORTED ||
         error == ECONNREFUSED || error == EIO;
}

// True when the work may go on; stops the program on an error that means more
// than a dead mount.
bool go_on(bool success, const char* what) {
  if (success) return true;
  if (!is_gone(errno)) die("%s: %s", what, std::strerror(errno));
  gone = true;
  return false;
}

std::string disk_name(std::uint64_t index) { return "w" + std::to_string(index); }

Stamp stamp_for(const std::string& name, std::uint64_t sector, std::uint64_t sequence) {
  return {mark_of(name), sector, sequence};
}

// A daemon that dies within a large write leaves a short one: its rest tells why.
bool write_whole(int file, const unsigned char* data, std::size_t length, off_t offset) {
  for (std::size_t done = 0; done < length;) {
    const ssize_t put = pwrite(file, data + done, length - done, offset + static_cast<off_t>(done));
    if (put < 0) return false;
    done += static_cast<std::size_t>(put);
  }
  return true;
}

void write_disk(const Settings& settings, std::uint64_t index, timespec end) {
  const std::string name = disk_name(index), path = settings.directory + "/" + name;
  ExpectedContent content(settings.size / sector_size);
  std::uint64_t sequence = load_expected(settings.logs + "/" + name, content);
  FlushLog log(settings.logs + "/" + name);
  Random random(mix(settings.seed, index));
  Fd cached(open(path.c_str(), O_RDWR | O_CLOEXEC));
  Fd direct(open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  if (!go_on(cached.valid() && direct.valid(), "open")) return;
  const auto buffer = aligned_buffer(largest_write);
  const std::uint64_t sectors = settings.size / sector_size;
  for (timespec now{}; !gone; clock_gettime(CLOCK_MONOTONIC, &now)) {
    if (now.tv_sec >= end.tv_sec) return;
    IssuedOp op{.sequence = ++sequence};
    op.sectors = random.size_up_to(largest_write / sector_size);
    op.first_sector = random.below(sectors);
    if (random.chance(2)) op.first_sector = op.first_sector / sectors_per_block * sectors_per_block;
    op.sectors = std::min(op.sectors, sectors - op.first_sector);
    op.kind = random.chance(5) ? FlushOp::punch : FlushOp::write;
    log.issued(op);
    const auto offset = static_cast<off_t>(op.first_sector * sector_size);
    const std::size_t length = op.sectors * sector_size;
    bool done = false;
    if (op.kind == FlushOp::punch) {
      done = fallocate(cached.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                       static_cast<off_t>(length)) == 0;
    } else {
      for (std::uint64_t i = 0; i < op.sectors; i++)
        write_stamp(buffer.get() + i * sector_size, stamp_for(name, op.first_sector + i, sequence));
      const int file = random.chance(2) ? cached.get() : direct.get();
      done = write_whole(file, buffer.get(), length, offset);
    }
    if (!go_on(done, "write")) return;
    if (!random.chance(6)) continue;
    if (!go_on(fsync(cached.get()) == 0, "fsync")) return;
    log.acknowledged();
  }
}

// Makes small disks and removes the oldest: names, frees and re-use under load.
void change_names(const Settings& settings, timespec end) {
  const std::string log_path = settings.logs + "/names";
  std::uint64_t number = 0;
  std::set<std::uint64_t> present;
  {
    std::ifstream old(log_path + ".log");
    char event = 0;
    for (std::uint64_t value = 0, size = 0; old >> event >> value >> size;) {
      number = std::max(number, value);
      event == 'C' ? void(present.insert(value)) : void(present.erase(value));
    }
  }
  FlushLog log(log_path);
  Random random(mix(settings.seed, 1000));
  const auto buffer = aligned_buffer(largest_write);
  for (timespec now{}; !gone; clock_gettime(CLOCK_MONOTONIC, &now)) {
    if (now.tv_sec >= end.tv_sec) return;
    const std::string name = "c" + std::to_string(++number);
    const std::string path = settings.directory + "/" + name;
    const std::uint64_t sectors = random.size_up_to(largest_write / sector_size);
    Fd file(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    if (!file.valid() && errno == EEXIST) continue;  // made, but not acknowledged, last time
    if (!go_on(file.valid(), "create")) return;
    for (std::uint64_t i = 0; i < sectors; i++)
      write_stamp(buffer.get() + i * sector_size, stamp_for(name, i, 1));
    const auto length = static_cast<ssize_t>(sectors * sector_size);
    if (!go_on(write_whole(file.get(), buffer.get(), static_cast<std::size_t>(length), 0), "write"))
      return;
    if (!go_on(fsync(file.get()) == 0, "fsync")) return;
    log.line("C " + std::to_string(number) + ' ' + std::to_string(length));
    present.insert(number);
    while (present.size() > settings.small_disks) {
      const std::uint64_t oldest = *present.begin();
      present.erase(present.begin());
      log.line("D " + std::to_string(oldest) + " 0");
      const std::string victim = settings.directory + "/c" + std::to_string(oldest);
      if (unlink(victim.c_str()) < 0 && errno != ENOENT && !go_on(false, "unlink")) return;
    }
  }
}

int run(const Settings& settings) {
  timespec end{};
  clock_gettime(CLOCK_MONOTONIC, &end);
  end.tv_sec += static_cast<time_t>(settings.seconds);
  for (std::uint64_t i = 0; i < settings.threads; i++) {
    const std::string path = settings.directory + "/" + disk_name(i);
    if (access(path.c_str(), F_OK) == 0) continue;
    Fd file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    if (!file.valid() || ftruncate(file.get(), static_cast<off_t>(settings.size)) < 0 ||
        fsync(file.get()) < 0)
      die("cannot make %s: %s", path.c_str(), std::strerror(errno));
  }
  std::printf("writing\n");
  std::fflush(stdout);
  std::vector<std::thread> threads;
  for (std::uint64_t i = 0; i < settings.threads; i++)
    threads.emplace_back([&settings, i, end] { write_disk(settings, i, end); });
  threads.emplace_back([&settings, end] { change_names(settings, end); });
  for (auto& thread : threads) thread.join();
  return gone ? exit_gone : 0;
}

void verify_disk(const Settings& settings, std::uint64_t index) {
  const std::string name = disk_name(index), path = settings.directory + "/" + name;
  ExpectedContent content(settings.size / sector_size);
  load_expected(settings.logs + "/" + name, content);
  const Fd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) die("cannot open %s: %s", path.c_str(), std::strerror(errno));
  const auto buffer = aligned_buffer(largest_write);
  for (std::uint64_t offset = 0; offset < settings.size; offset += largest_write) {
    if (pread(file.get(), buffer.get(), largest_write, static_cast<off_t>(offset)) !=
        static_cast<ssize_t>(largest_write))
      die("cannot read %s at %" PRIu64 ": %s", path.c_str(), offset, std::strerror(errno));
    for (std::uint64_t at = 0; at < largest_write; at += sector_size) {
      const unsigned char* data = buffer.get() + at;
      const std::uint64_t sector = (offset + at) / sector_size;
      std::uint64_t found = 0;
      if (!all_zero(data, sector_size)) {
        found = read_stamp(data).generation;
        if (!is_stamp(data, stamp_for(name, sector, found)))
          die("%s: sector %" PRIu64 " is torn or foreign: mark %016" PRIx64 " (own %016" PRIx64
              "), sector %" PRIu64 ", sequence %" PRIu64,
              path.c_str(), sector, read_stamp(data).mark, mark_of(name), read_stamp(data).sector,
              found);
      }
      if (!content.allows(sector, found))
        die("%s: sector %" PRIu64 " holds write %" PRIu64 ", but %" PRIu64
            " was flushed (0 = zeros)",
            path.c_str(), sector, found, content.stable(sector));
      content.settle(sector, found);
    }
  }
  content.forget_pending();
  save_expected(settings.logs + "/" + name, content);
}

void verify_names(const Settings& settings) {
  std::ifstream log(settings.logs + "/names.log");
  std::set<std::pair<std::uint64_t, std::uint64_t>> present;  // number, bytes
  char event = 0;
  for (std::uint64_t number = 0, size = 0; log >> event >> number >> size;) {
    if (event == 'C') present.emplace(number, size);
    if (event == 'D')
      std::erase_if(present, [&](const auto& entry) { return entry.first == number; });
  }
  std::vector<unsigned char> data(largest_write);
  for (const auto& [number, size] : present) {
    const std::string name = "c" + std::to_string(number), path = settings.directory + "/" + name;
    const Fd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.valid()) die("flushed disk %s is lost: %s", path.c_str(), std::strerror(errno));
    if (pread(file.get(), data.data(), data.size(), 0) != static_cast<ssize_t>(size))
      die("flushed disk %s has not its size %" PRIu64, path.c_str(), size);
    for (std::uint64_t i = 0; i < size / sector_size; i++)
      if (!is_stamp(data.data() + i * sector_size, stamp_for(name, i, 1)))
        die("flushed disk %s: sector %" PRIu64 " is wrong", path.c_str(), i);
  }
  std::printf("%zu small disks present\n", present.size());
}

}  // namespace

int main(int argc, char** argv) {
  const Options options(
      argc, argv, {"seed", "threads", "size", "seconds"}, {},
      "usage: flush_writer run|verify DIRECTORY LOGS [--seed N] [--threads N] [--size BYTES]\n"
      "       [--seconds N]");
  if (options.words.size() != 3) options.usage_error("a verb, a directory and a log directory");
  Settings settings;
  settings.directory = options.words[1];
  settings.logs = options.words[2];
  settings.threads = options.number("threads", settings.threads);
  settings.size = options.number("size", settings.size);
  settings.seconds = options.number("seconds", settings.seconds);
  if (options.words[0] == "run") {
    settings.seed = seed_of(options);
    return run(settings);
  }
  if (options.words[0] != "verify") options.usage_error("unknown verb");
  for (std::uint64_t i = 0; i < settings.threads; i++) verify_disk(settings, i);
  verify_names(settings);
  std::printf("nothing flushed is lost\n");
}
