// Random file operations against a copy in memory (the oracle).
//
// Every read is compared with the oracle, and from time to time the whole file,
// its size and its holes. A run is a function of its seed: the same seed makes
// the same operations, so a failure is replayed by `--seed`, and its last
// operations are printed.
//
// The target is a file of a file system or a disk of a pool in process; what it
// cannot do (mmap, for example) it says in its capabilities.
//
// Limits: one thread; errors of the target are failures, ENOSPC included.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <vector>

#include "tests/lib/judge.h"

namespace judge {

enum class RangeCall { allocate, punch, zero };

class FsxTarget {
 public:
  struct Capabilities {
    bool maps = false;            // map_read, map_write
    bool caches = false;          // drop_caches
    bool grows = false;           // zero and allocate without keep_size, beyond the end
    std::uint64_t alignment = 1;  // of offsets and lengths of the direct calls; 0 = none
  };
  virtual ~FsxTarget() = default;
  virtual Capabilities capabilities() const = 0;
  // Each returns 0 or an errno; reads and writes are complete or an error.
  virtual int read(std::uint64_t offset, std::span<unsigned char> data, bool direct) = 0;
  virtual int write(std::uint64_t offset, std::span<const unsigned char> data, bool direct) = 0;
  virtual int map_read(std::uint64_t offset, std::span<unsigned char> data) = 0;
  virtual int map_write(std::uint64_t offset, std::span<const unsigned char> data, bool sync) = 0;
  virtual int truncate(std::uint64_t size) = 0;
  virtual int range(RangeCall call, bool keep_size, std::uint64_t offset, std::uint64_t length) = 0;
  virtual int sync(bool data_only) = 0;
  virtual int reopen() = 0;
  virtual int drop_caches() = 0;
  virtual int size(std::uint64_t& bytes) = 0;
  // SEEK_DATA or SEEK_HOLE from `offset`; ENXIO as lseek has it.
  virtual int seek(bool data, std::uint64_t offset, std::uint64_t& found) = 0;
};

struct FsxOptions {
  std::uint64_t seed = 1;
  std::uint64_t operations = 10000;
  std::uint64_t max_size = 16 << 20;
  std::uint64_t max_length = 256 << 10;
  std::uint64_t corrupt_at = 0;  // self-test: the oracle is made wrong before this operation
};

// The command line of a program around Fsx: one path, its own flags, what FsxOptions has.
class FsxCommand : public Options {
 public:
  FsxCommand(int argc, char** argv, std::vector<std::string> flags, const std::string& usage);
  const std::string& path() const { return words[0]; }
  FsxOptions fsx;
};

class Fsx {
 public:
  Fsx(FsxTarget& target, const FsxOptions& options);
  // Stops the program with a report on the first difference.
  void run();

 private:
  void step();
  void read_some(bool direct, bool map);
  void write_some(bool direct, bool map);
  void change_size();
  void change_range();
  void check_holes();
  void check_whole();
  void compare(std::uint64_t offset, std::span<const unsigned char> got);
  void expect(int error, const char* what);
  void note(const char* what, std::uint64_t offset, std::uint64_t length);
  void resize_oracle(std::uint64_t size);
  [[noreturn]] void report(const std::string& what);

  FsxTarget& target_;
  const FsxOptions options_;
  const FsxTarget::Capabilities can_;
  Random random_;
  std::vector<unsigned char> oracle_;  // max_size bytes, zero beyond size_
  std::uint64_t size_ = 0;
  std::uint64_t operation_ = 0;
  std::uint64_t compared_bytes_ = 0;
  Aligned buffer_;
  std::deque<std::string> history_;
};

}  // namespace judge
