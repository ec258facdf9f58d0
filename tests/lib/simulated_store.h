// A disk in memory that loses power on command.
//
// Reads see the newest content. Beside it the store keeps the durable content
// and, in order, the changes since: writes, discards and zeroes that no flush
// has covered (and that had no force_unit_access). crash() makes of these the
// image that a power loss could have left, at 512-byte sectors. It changes
// nothing: one run can be crashed in many ways; a new store on the image is the
// disk after the power came back.
//
// set_crash_at(n) takes the power away after the n-th changing operation:
// everything later fails with EIO, so what crash() gives belongs to that point.
//
// Deterministic as long as its requests come in the same order. Completes
// within submit(), or with complete_inline = false from the channel's loop; then
// a flush covers only what had completed when the flush was submitted.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "blockdev/block_store.h"
#include "tests/lib/sparse_image.h"

namespace tidepool::test {

enum class CrashMode {
  drop_all,       // nothing unflushed survives
  keep_all,       // everything does
  random_subset,  // each change as a whole survives or does not
  torn,           // each change is kept, dropped, or kept sector by sector
  reorder,        // each sector has the content of any of its changes, or the old one
};
inline constexpr int crash_mode_count = 5;

// What several stores lose their power with: after the n-th changing operation of all.
struct PowerSupply {
  std::atomic<std::uint64_t> changes{0};
  std::uint64_t off_after = 0;  // 0: never; set while nothing runs
  bool off() const { return off_after != 0 && changes.load() >= off_after; }
};

class SimulatedStore : public blockdev::BlockStore,
                       public std::enable_shared_from_this<SimulatedStore> {
 public:
  static constexpr std::uint32_t sector = 512;  // bytes that survive or vanish as one

  struct Options {
    std::string name = "simulated";
    std::uint32_t logical_block = sector;
    std::uint32_t memory_alignment = 1;
    bool read_only = false;
    bool complete_inline = true;
    std::shared_ptr<PowerSupply> power;  // may be null
  };
  struct Counters {
    std::uint64_t reads = 0, writes = 0, flushes = 0, discards = 0, zeroes = 0, allocates = 0;
    std::uint64_t bytes_read = 0, bytes_written = 0;
    // What set_crash_at counts.
    std::uint64_t changes() const { return writes + flushes + discards + zeroes; }
  };

  // With the content of `image`, all durable.
  static std::shared_ptr<SimulatedStore> open(SparseImage image, const Options& options);
  static std::shared_ptr<SimulatedStore> open(SparseImage image) {
    return open(std::move(image), Options());
  }
  static std::shared_ptr<SimulatedStore> open(std::uint64_t size) {
    return open(SparseImage(size), Options());
  }

  // 0: never. Counted from the store's opening, as Counters::changes().
  void set_crash_at(std::uint64_t change);
  bool crashed() const;
  // What the disk may hold after a power loss now (or at the crash that was).
  SparseImage crash(std::uint64_t seed, CrashMode mode) const;
  SparseImage crash(std::uint64_t seed) const;  // the mode by the seed, too
  SparseImage newest() const;
  std::size_t unflushed() const;  // changes that a crash may lose
  Counters counters() const;
  void set_size(std::uint64_t size);  // grow only; durable at once

  const std::string& name() const override { return options_.name; }
  blockdev::Geometry geometry() const override;
  Result<std::unique_ptr<blockdev::IoChannel>> open_channel(EventLoop& loop) override;
  Result<> locate(std::uint64_t offset, std::uint64_t length,
                  const std::function<bool(const blockdev::Range&)>& sink) override;

 private:
  friend class SimulatedChannel;
  struct Change {
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    std::vector<std::byte> data;  // empty: zeros
    bool completed = false;
    bool durable = false;  // force_unit_access
    std::uint64_t number = 0;
  };

  SimulatedStore(SparseImage image, const Options& options);
  // Both give the request's error; `number` identifies its change, 0 without one.
  int apply(const blockdev::IoRequest& request, std::uint64_t& number);
  int apply_locked(const blockdev::IoRequest& request, std::uint64_t& number);
  void completed(std::uint64_t number);
  void make_durable();
  static void play(SparseImage& image, const Change& change, std::uint64_t from, std::uint64_t to);

  const Options options_;
  mutable std::mutex mutex_;  // guards all below
  SparseImage durable_;
  SparseImage newest_;
  std::vector<Change> changes_;  // not covered by a flush, oldest first
  Counters counters_;
  std::uint64_t next_number_ = 1;
  std::uint64_t crash_at_ = 0;
};

}  // namespace tidepool::test
