#include "tests/lib/simulated_store.h"

#include <algorithm>
#include <cerrno>
#include <random>
#include <unordered_map>
#include <utility>

#include "base/checked.h"
#include "blockdev/request_check.h"

namespace tidepool::test {

using blockdev::IoOp;
using blockdev::IoRequest;

class SimulatedChannel final : public blockdev::IoChannel {
 public:
  SimulatedChannel(std::shared_ptr<SimulatedStore> store, EventLoop& loop)
      : store_(std::move(store)), loop_(loop) {}

  void submit(IoRequest& request) override {
    std::uint64_t number = 0;
    const int error = store_->apply(request, number);
    if (store_->options_.complete_inline) {
      store_->completed(number);
      return request.complete(request, error);
    }
    loop_.post([this, &request, error, number] {
      store_->completed(number);
      request.complete(request, error);
    });
  }

 private:
  std::shared_ptr<SimulatedStore> store_;
  EventLoop& loop_;
};

SimulatedStore::SimulatedStore(SparseImage image, const Options& options)
    : options_(options), durable_(image), newest_(std::move(image)) {}

std::shared_ptr<SimulatedStore> SimulatedStore::open(SparseImage image, const Options& options) {
  return std::shared_ptr<SimulatedStore>(new SimulatedStore(std::move(image), options));
}

blockdev::Geometry SimulatedStore::geometry() const {
  const std::lock_guard lock(mutex_);
  return {.size = newest_.size(),
          .logical_block = options_.logical_block,
          .memory_alignment = options_.memory_alignment,
          .read_only = options_.read_only,
          .can_discard = !options_.read_only};
}

Result<std::unique_ptr<blockdev::IoChannel>> SimulatedStore::open_channel(EventLoop& loop) {
  return std::make_unique<SimulatedChannel>(shared_from_this(), loop);
}

int SimulatedStore::apply(const IoRequest& request, std::uint64_t& number) {
  if (const int error = blockdev::refusal(geometry(), request); error != 0) return error;
  const std::lock_guard lock(mutex_);
  return apply_locked(request, number);
}

int SimulatedStore::apply_locked(const IoRequest& request, std::uint64_t& number) {
  if (crash_at_ != 0 && counters_.changes() >= crash_at_) return EIO;
  if (options_.power && options_.power->off()) return EIO;
  if (options_.power && request.op != IoOp::read && request.op != IoOp::allocate)
    options_.power->changes.fetch_add(1);
  switch (request.op) {
    case IoOp::read: {
      ++counters_.reads;
      counters_.bytes_read += request.length;
      std::uint64_t at = request.offset;
      for (unsigned i = 0; i < request.buffer_count; ++i) {
        const iovec& buffer = request.buffers[i];
        newest_.read(at, {static_cast<std::byte*>(buffer.iov_base), buffer.iov_len});
        at += buffer.iov_len;
      }
      return 0;
    }
    case IoOp::flush:
      ++counters_.flushes;
      make_durable();
      return 0;
    case IoOp::allocate:
      ++counters_.allocates;
      return 0;
    case IoOp::write:
      ++counters_.writes;
      counters_.bytes_written += request.length;
      break;
    case IoOp::discard:
      ++counters_.discards;
      break;
    case IoOp::zero:
      ++counters_.zeroes;
      break;
  }
  if (request.length == 0) return 0;
  Change change{.offset = request.offset,
                .length = request.length,
                .durable = request.force_unit_access,
                .number = next_number_++};
  if (request.op == IoOp::write) {
    change.data.reserve(static_cast<std::size_t>(request.length));
    for (unsigned i = 0; i < request.buffer_count; ++i) {
      const auto* const data = static_cast<const std::byte*>(request.buffers[i].iov_base);
      change.data.insert(change.data.end(), data, data + request.buffers[i].iov_len);
    }
  }
  play(newest_, change, change.offset, change.offset + change.length);
  number = change.number;
  changes_.push_back(std::move(change));
  return 0;
}

void SimulatedStore::completed(std::uint64_t number) {
  if (number == 0) return;
  const std::lock_guard lock(mutex_);
  const auto found = std::lower_bound(
      changes_.begin(), changes_.end(), number,
      [](const Change& change, std::uint64_t wanted) { return change.number < wanted; });
  if (found != changes_.end() && found->number == number) found->completed = true;
}

void SimulatedStore::make_durable() {
  std::vector<Change> rest;
  for (auto& change : changes_) {
    if (change.completed) {
      play(durable_, change, change.offset, change.offset + change.length);
    } else {
      rest.push_back(std::move(change));
    }
  }
  changes_ = std::move(rest);
}

// Applies the part of a change that lies in [from, to).
void SimulatedStore::play(SparseImage& image, const Change& change, std::uint64_t from,
                          std::uint64_t to) {
  if (change.data.empty()) return image.clear(from, to - from);
  const auto first = static_cast<std::size_t>(from - change.offset);
  image.write(from, std::span(change.data).subspan(first, static_cast<std::size_t>(to - from)));
}

SparseImage SimulatedStore::crash(std::uint64_t seed) const {
  return crash(seed / crash_mode_count, static_cast<CrashMode>(seed % crash_mode_count));
}

SparseImage SimulatedStore::crash(std::uint64_t seed, CrashMode mode) const {
  const std::lock_guard lock(mutex_);
  std::mt19937_64 random(seed);
  // From nearly all lost to nearly all kept, in eighths.
  const std::uint64_t kept_of_eight = 1 + random() % 7;
  const auto keep = [&] { return random() % 8 < kept_of_eight; };
  const auto by_sector = [](const Change& change, auto&& visit) {
    const std::uint64_t end = change.offset + change.length;
    for (std::uint64_t at = change.offset; at < end;) {
      const std::uint64_t next = std::min(end, round_down(at, std::uint64_t{sector}) + sector);
      visit(at, next);
      at = next;
    }
  };

  SparseImage image = durable_;
  // reorder: how many contents a sector has had, the durable one included.
  std::unordered_map<std::uint64_t, std::uint64_t> choices;
  for (const Change& change : changes_) {
    const std::uint64_t end = change.offset + change.length;
    if (change.durable && change.completed) {
      play(image, change, change.offset, end);
      if (mode == CrashMode::reorder) {
        by_sector(change, [&](std::uint64_t from, std::uint64_t) { choices.erase(from / sector); });
      }
      continue;
    }
    switch (mode) {
      case CrashMode::drop_all:
        break;
      case CrashMode::keep_all:
        play(image, change, change.offset, end);
        break;
      case CrashMode::random_subset:
        if (keep()) play(image, change, change.offset, end);
        break;
      case CrashMode::torn: {
        const auto fate = random() % 3;
        if (fate == 0) play(image, change, change.offset, end);
        if (fate == 1) {
          by_sector(change, [&](std::uint64_t from, std::uint64_t to) {
            if (keep()) play(image, change, from, to);
          });
        }
        break;
      }
      case CrashMode::reorder:
        // Replacing the k-th content with chance 1 in k leaves each of them
        // with the same chance.
        by_sector(change, [&](std::uint64_t from, std::uint64_t to) {
          auto& count = choices.try_emplace(from / sector, 1).first->second;
          if (random() % ++count == 0) play(image, change, from, to);
        });
        break;
    }
  }
  return image;
}

void SimulatedStore::set_crash_at(std::uint64_t change) {
  const std::lock_guard lock(mutex_);
  crash_at_ = change;
}

bool SimulatedStore::crashed() const {
  const std::lock_guard lock(mutex_);
  return crash_at_ != 0 && counters_.changes() >= crash_at_;
}

SparseImage SimulatedStore::newest() const {
  const std::lock_guard lock(mutex_);
  return newest_;
}

std::size_t SimulatedStore::unflushed() const {
  const std::lock_guard lock(mutex_);
  return static_cast<std::size_t>(
      std::count_if(changes_.begin(), changes_.end(),
                    [](const Change& change) { return !(change.durable && change.completed); }));
}

SimulatedStore::Counters SimulatedStore::counters() const {
  const std::lock_guard lock(mutex_);
  return counters_;
}

void SimulatedStore::set_size(std::uint64_t size) {
  const std::lock_guard lock(mutex_);
  durable_.set_size(size);
  newest_.set_size(size);
}

Result<> SimulatedStore::locate(std::uint64_t offset, std::uint64_t length,
                                const std::function<bool(const blockdev::Range&)>& sink) {
  using blockdev::RangeKind;
  const SparseImage image = newest();
  if (!range_fits(offset, length, image.size())) {
    return fail(ErrorKind::invalid_argument, "no range {}+{} in '{}' of {} bytes", offset, length,
                name(), image.size());
  }
  const std::uint64_t end = offset + length;
  while (offset < end) {
    const bool data = image.is_allocated(offset);
    std::uint64_t next = offset;
    do {
      next = round_down(next, std::uint64_t{SparseImage::block_size}) + SparseImage::block_size;
    } while (next < end && image.is_allocated(next) == data);
    next = std::min(next, end);
    const blockdev::Range range{.offset = offset,
                                .length = next - offset,
                                .kind = data ? RangeKind::data : RangeKind::hole,
                                .leaf_offset = data ? offset : 0};
    if (!sink(range)) return {};
    offset = next;
  }
  return {};
}

}  // namespace tidepool::test
