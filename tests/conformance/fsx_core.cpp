#include "tests/conformance/fsx_core.h"

#include <algorithm>
#include <cinttypes>

namespace judge {
namespace {

constexpr std::size_t history_limit = 60;
constexpr std::uint64_t whole_check_every = 5000;
constexpr std::size_t whole_check_step = 1 << 20;

std::uint64_t round_down(std::uint64_t value, std::uint64_t unit) { return value / unit * unit; }

}  // namespace

FsxCommand::FsxCommand(int argc, char** argv, std::vector<std::string> flags,
                       const std::string& usage)
    : Options(argc, argv, {"ops", "seed", "size", "length", "corrupt-at"}, std::move(flags),
              usage +
                  " [--ops N] [--seed S] [--size MAX] [--length MAX]\n"
                  "    [--corrupt-at N]   (self-test: must fail)") {
  if (words.size() != 1) usage_error("one path is needed");
  fsx.seed = seed_of(*this);
  fsx.operations = number("ops", fsx.operations);
  fsx.max_size = number("size", fsx.max_size);
  fsx.max_length = number("length", fsx.max_length);
  fsx.corrupt_at = number("corrupt-at", 0);
}

Fsx::Fsx(FsxTarget& target, const FsxOptions& options)
    : target_(target),
      options_(options),
      can_(target.capabilities()),
      random_(options.seed),
      oracle_(options.max_size),
      buffer_(aligned_buffer(std::max<std::size_t>(options.max_length, whole_check_step))) {}

void Fsx::run() {
  expect(target_.truncate(0), "truncate to 0");
  for (operation_ = 1; operation_ <= options_.operations; operation_++) {
    if (operation_ == options_.corrupt_at) {
      if (size_ == 0) {
        resize_oracle(1);
        expect(target_.truncate(1), "truncate");
      }
      oracle_[size_ / 2] ^= 0x40;
      check_whole();
    }
    step();
    if (operation_ % whole_check_every == 0) check_whole();
  }
  expect(target_.sync(false), "fsync");
  check_whole();
  expect(target_.reopen(), "reopen");
  check_whole();
  check_holes();
  std::printf("fsx: %" PRIu64 " operations, %" PRIu64 " MiB compared, no difference\n",
              options_.operations, compared_bytes_ >> 20);
}

void Fsx::step() {
  const std::uint64_t pick = random_.below(1000);
  const bool direct = can_.alignment > 0 && random_.chance(3);
  if (pick < 330) return write_some(direct, false);
  if (pick < 640) return read_some(direct, false);
  if (pick < 700) return can_.maps ? write_some(false, true) : write_some(direct, false);
  if (pick < 750) return can_.maps ? read_some(false, true) : read_some(direct, false);
  if (pick < 800) return change_size();
  if (pick < 930) return change_range();
  if (pick < 960) {
    note("sync", 0, 0);
    return expect(target_.sync(random_.chance(2)), "fsync");
  }
  if (pick < 970) {
    note("reopen", 0, 0);
    return expect(target_.reopen(), "reopen");
  }
  if (pick < 985 && can_.caches) {
    note("drop caches", 0, 0);
    return expect(target_.drop_caches(), "drop caches");
  }
  check_holes();
}

void Fsx::read_some(bool direct, bool map) {
  if (size_ == 0) return;
  std::uint64_t offset = random_.below(size_);
  if (direct) offset = round_down(offset, can_.alignment);
  std::uint64_t length = std::min(random_.size_up_to(options_.max_length), size_ - offset);
  if (direct) length = round_down(length, can_.alignment);
  if (length == 0) return;
  const std::span got(buffer_.get(), length);
  note(map ? "map read" : direct ? "direct read" : "read", offset, length);
  expect(map ? target_.map_read(offset, got) : target_.read(offset, got, direct), "read");
  compare(offset, got);
}

void Fsx::write_some(bool direct, bool map) {
  const std::uint64_t reach = map ? size_ : options_.max_size;
  if (reach == 0) return;
  // Half of the writes stay inside the file or touch its end: overwrites are as
  // interesting as extensions.
  std::uint64_t offset =
      random_.chance(2) ? random_.below(reach) : random_.below(std::min(size_ + 1, reach));
  std::uint64_t length = std::min(random_.size_up_to(options_.max_length), reach - offset);
  if (direct) {
    offset = round_down(offset, can_.alignment);
    length = round_down(length, can_.alignment);
  }
  if (length == 0) return;
  fill_random(random_, buffer_.get(), length);
  const std::span<const unsigned char> data(buffer_.get(), length);
  note(map ? "map write" : direct ? "direct write" : "write", offset, length);
  expect(map ? target_.map_write(offset, data, random_.chance(2))
             : target_.write(offset, data, direct),
         "write");
  std::copy(data.begin(), data.end(), oracle_.begin() + static_cast<std::ptrdiff_t>(offset));
  size_ = std::max(size_, offset + length);
}

void Fsx::change_size() {
  const std::uint64_t size =
      random_.chance(2) ? random_.below(options_.max_size + 1) : random_.below(size_ + 1);
  note("truncate", size, 0);
  expect(target_.truncate(size), "truncate");
  resize_oracle(size);
}

void Fsx::change_range() {
  const std::uint64_t pick = random_.below(10);
  const RangeCall call = pick < 5   ? RangeCall::punch
                         : pick < 8 ? RangeCall::zero
                                    : RangeCall::allocate;
  std::uint64_t offset = random_.below(options_.max_size);
  std::uint64_t length =
      std::min(random_.size_up_to(options_.max_length * 2), options_.max_size - offset);
  if (random_.chance(2)) {
    offset = round_down(offset, 4096);
    length = std::min(round_down(length + 4095, 4096), options_.max_size - offset);
  }
  const bool keep = call == RangeCall::punch || !can_.grows || random_.chance(2);
  static constexpr const char* names[] = {"allocate", "punch", "zero range"};
  const std::string name = std::string(names[static_cast<int>(call)]) + (keep ? ", keep size" : "");
  note(name.c_str(), offset, length);
  expect(target_.range(call, keep, offset, length), name.c_str());
  if (call != RangeCall::allocate && offset < size_)
    std::fill_n(oracle_.begin() + static_cast<std::ptrdiff_t>(offset),
                std::min(length, size_ - offset), 0);
  if (!keep && offset + length > size_) size_ = offset + length;
}

void Fsx::check_holes() {
  note("seek holes", 0, size_);
  std::uint64_t position = 0;
  while (position < size_) {
    std::uint64_t data = 0, hole = 0;
    int error = target_.seek(true, position, data);
    if (error == ENXIO)
      data = size_;
    else
      expect(error, "SEEK_DATA");
    if (data < position || data > size_) report("SEEK_DATA went backwards or past the end");
    const auto begin = oracle_.begin() + static_cast<std::ptrdiff_t>(position);
    const auto end = oracle_.begin() + static_cast<std::ptrdiff_t>(data);
    const auto found = std::find_if(begin, end, [](unsigned char byte) { return byte != 0; });
    if (found != end)
      report("a hole from " + std::to_string(position) + " to " + std::to_string(data) +
             " covers data at " + std::to_string(found - oracle_.begin()));
    if (data == size_) break;
    expect(target_.seek(false, data, hole), "SEEK_HOLE");
    if (hole <= data || hole > size_)
      report("SEEK_HOLE from data at " + std::to_string(data) + " of " + std::to_string(size_) +
             " found " + std::to_string(hole));
    position = hole;
  }
  std::uint64_t found = 0;
  if (target_.seek(true, size_, found) != ENXIO) report("SEEK_DATA at the end must be ENXIO");
}

void Fsx::check_whole() {
  note("compare all", 0, size_);
  std::uint64_t bytes = 0;
  expect(target_.size(bytes), "stat");
  if (bytes != size_)
    report("size is " + std::to_string(bytes) + ", must be " + std::to_string(size_));
  for (std::uint64_t offset = 0; offset < size_; offset += whole_check_step) {
    const std::span got(buffer_.get(), std::min<std::uint64_t>(whole_check_step, size_ - offset));
    expect(target_.read(offset, got, false), "read");
    compare(offset, got);
  }
}

void Fsx::compare(std::uint64_t offset, std::span<const unsigned char> got) {
  compared_bytes_ += got.size();
  const auto want = oracle_.begin() + static_cast<std::ptrdiff_t>(offset);
  const auto [left, right] = std::mismatch(got.begin(), got.end(), want);
  if (left == got.end()) return;
  const auto first = static_cast<std::uint64_t>(left - got.begin());
  std::uint64_t different = 0, zeros = 0, last = first;
  for (std::uint64_t i = first; i < got.size(); i++) {
    if (got[i] == want[static_cast<std::ptrdiff_t>(i)]) continue;
    different++;
    zeros += got[i] == 0 ? 1 : 0;
    last = i;
  }
  char text[200];
  std::snprintf(text, sizeof text,
                "wrong data: %" PRIu64 " bytes differ in [%" PRIu64 ", %" PRIu64 "], %" PRIu64
                " of them read as zero; first: got %02x, must be %02x",
                different, offset + first, offset + last, zeros, *left, *right);
  report(text);
}

void Fsx::expect(int error, const char* what) {
  if (error != 0) report(std::string(what) + " failed: " + std::strerror(error));
}

void Fsx::note(const char* what, std::uint64_t offset, std::uint64_t length) {
  char text[160];
  std::snprintf(text, sizeof text,
                "%8" PRIu64 "  %-22s %10" PRIu64 " + %-8" PRIu64 " size %" PRIu64, operation_, what,
                offset, length, size_);
  history_.emplace_back(text);
  if (history_.size() > history_limit) history_.pop_front();
}

void Fsx::resize_oracle(std::uint64_t size) {
  if (size < size_)
    std::fill(oracle_.begin() + static_cast<std::ptrdiff_t>(size),
              oracle_.begin() + static_cast<std::ptrdiff_t>(size_), 0);
  size_ = size;
}

void Fsx::report(const std::string& what) {
  std::fflush(stdout);
  std::fprintf(stderr,
               "operation %" PRIu64
               ": %s\nlast operations (number, call, offset + length, "
               "size before):\n",
               operation_, what.c_str());
  for (const auto& line : history_) std::fprintf(stderr, "%s\n", line.c_str());
  std::fprintf(stderr, "replay: --seed %" PRIu64 " --ops %" PRIu64 " --size %" PRIu64 "\n",
               options_.seed, operation_, options_.max_size);
  std::exit(exit_failed);
}

}  // namespace judge
