// PoolImpl: how changes become durable and freed blocks become free.
//
// commit: the log since the last one is taken; if it makes data visible the data
// is flushed first; then the log goes to the journal and is flushed. Where it does
// not fit, a checkpoint of the whole state takes its place and empties the journal.
// release: blocks whose un-mapping is durable wait for the requests that may still
// use them, are punched out of the store, and only then are free.
#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "base/size_text.h"
#include "blockdev/journal_format.h"
#include "fs/pool/checkpoint_format.h"
#include "fs/pool/pool_impl.h"

namespace tidepool::pool {

using namespace blockdev;

namespace {

constexpr std::uint64_t punch_bytes = 256 * 1024 * 1024;  // at most, in one call
constexpr std::uint64_t joined_gap_bytes = 1024 * 1024;   // free space punched again

std::uint64_t salt_of(const Superblock& s) {
  std::uint64_t salt = 0;
  std::memcpy(&salt, s.uuid.data(), sizeof salt);
  return salt;
}

// The least size that has room for the checkpoint areas which go with it.
std::uint64_t least_grown_bytes(const Superblock& s) {
  for (std::uint64_t bytes = s.pool_bytes + s.chunk_bytes, taken;; bytes = taken) {
    taken = s.pool_bytes + 2 * checkpoint_area_bytes(bytes, s.node_limit);
    taken = (taken + s.chunk_bytes - 1) / s.chunk_bytes * s.chunk_bytes;
    if (taken <= bytes) return bytes;
  }
}

}  // namespace

Result<> PoolImpl::note_failure(Result<> result) {
  if (result || failed_) return result;
  failure_ = result.error();
  failed_.store(true, std::memory_order_release);
  log().error("pool '{}': {}: writing stops; what was flushed before is safe", store->name(),
              failure_.message);
  std::scoped_lock lock(mutex);
  while (SpaceWaiter* waiter = space_waiters_) {
    space_waiters_ = waiter->next;
    waiter->resume(*waiter);
  }
  return result;
}

PoolImpl::Pages PoolImpl::snapshot() const {
  Pages pages;
  state->snapshot(page_payload_bytes, [&](std::span<const std::byte> records) {
    pages.emplace_back(records.begin(), records.end());
  });
  return pages;
}

Result<> PoolImpl::write_superblock(const Superblock& superblock) {
  auto encoded = encode(superblock);
  blockdev::AlignedBuffer slot(Superblock::slot_stride);
  std::copy(encoded.begin(), encoded.end(), slot.data());
  for (std::uint64_t i : {0, 1}) {
    if (auto r = channel_->write(i * Superblock::slot_stride, slot.span()); !r) return r;
    if (auto r = channel_->flush(); !r) return r;
  }
  return {};
}

Result<> PoolImpl::write_checkpoint(const Pages& pages, bool clean) {
  constexpr std::size_t pages_at_once = 16;
  Superblock next = superblock_;
  next.generation += 1;
  next.active_checkpoint = 1 - superblock_.active_checkpoint;
  next.checkpoint_pages = pages.size();
  next.clean = clean;
  {
    std::scoped_lock lock(mutex);
    next.next_node = state->next_id();
  }
  const Area& area = next.checkpoints[next.active_checkpoint];
  blockdev::AlignedBuffer buffer(pages_at_once * page_bytes);
  for (std::size_t first = 0; first < pages.size(); first += pages_at_once) {
    std::size_t count = std::min(pages_at_once, pages.size() - first);
    for (std::size_t i = 0; i < count; ++i)
      encode_page(buffer.span().subspan(i * page_bytes, page_bytes), next.generation, first + i,
                  pages[first + i]);
    auto r =
        channel_->write(area.offset + first * page_bytes, buffer.span().first(count * page_bytes));
    if (!r) return r;
  }
  if (auto r = channel_->flush(); !r) return r;
  if (auto r = write_superblock(next); !r) return r;
  const Area old = superblock_.checkpoints[superblock_.active_checkpoint];
  superblock_ = next;
  journal_used_ = 0;
  next_batch_ = first_batch(next.generation);
  ++checkpoints_;
  // What is no longer needed goes back to the host; the rest of both areas is sparse.
  if (store->geometry().can_discard) {
    if (auto r = channel_->discard(old.offset, old.length); !r) return r;
    if (auto r = channel_->discard(superblock_.journal.offset, superblock_.journal.length); !r)
      return r;
  }
  return {};
}

Result<> PoolImpl::checkpoint_locked(bool clean, const std::function<void()>& change) {
  if (failed_) return std::unexpected(failure_);
  Pages pages;
  std::vector<Run> freed;
  {
    std::scoped_lock lock(mutex);
    change();
    state->take_log();  // the snapshot says it all
    freed = state->take_freed();
    unflushed_data = false;
    pages = snapshot();
  }
  if (auto r = note_failure(channel_->flush()); !r) return r;
  if (auto r = note_failure(write_checkpoint(pages, clean)); !r) return r;
  committed_.insert(committed_.end(), freed.begin(), freed.end());
  return {};
}

Result<> PoolImpl::append_batch(const std::vector<std::byte>& records) {
  blockdev::AlignedBuffer buffer(batch_bytes(records.size()));
  encode_batch(buffer.span(), salt_of(superblock_), next_batch_, records);
  if (auto r = channel_->write(superblock_.journal.offset + journal_used_, buffer.span()); !r)
    return r;
  journal_used_ += buffer.size();
  journal_bytes_ += buffer.size();
  ++next_batch_;
  if (options.sabotage.skip_journal_barrier) return {};
  return channel_->flush();
}

Result<> PoolImpl::commit_locked() {
  if (failed_) return std::unexpected(failure_);
  PoolState::Log log;
  std::vector<Run> freed;
  Pages pages;
  bool needs_checkpoint = false, unflushed = false;
  {
    std::scoped_lock lock(mutex);
    log = state->take_log();
    freed = state->take_freed();
    unflushed = std::exchange(unflushed_data, false);
    needs_checkpoint = journal_used_ + batch_bytes(log.records.size()) > superblock_.journal.length;
    if (needs_checkpoint) pages = snapshot();
  }
  if (log.records.empty()) {
    if (unflushed)
      if (auto r = note_failure(channel_->flush()); !r) return r;
  } else {
    // Mappings must not become stable before what they point to.
    if (log.maps_data && !options.sabotage.skip_data_barrier)
      if (auto r = note_failure(channel_->flush()); !r) return r;
    auto written = needs_checkpoint ? write_checkpoint(pages, false) : append_batch(log.records);
    if (auto r = note_failure(written); !r) return r;
  }
  committed_.insert(committed_.end(), freed.begin(), freed.end());
  ++commits_;
  return {};
}

Result<> PoolImpl::commit() {
  std::scoped_lock serial(commit_mutex_);
  return commit_locked();
}

void PoolImpl::commit_async(std::function<void(int)> done) {
  if (!background()) {
    auto r = commit();
    done(r ? 0 : EIO);
    return;
  }
  {
    std::scoped_lock lock(requests_mutex_);
    commit_requests_.push_back(std::move(done));
    woken_ = true;
  }
  wakeup_.notify_one();
}

void PoolImpl::wake() {
  {
    std::scoped_lock lock(requests_mutex_);
    woken_ = true;
  }
  wakeup_.notify_one();
}

void PoolImpl::serve_commits() {
  std::vector<std::function<void(int)>> requests;
  {
    std::scoped_lock lock(requests_mutex_);
    requests.swap(commit_requests_);
  }
  auto r = commit();
  for (auto& done : requests) done(r ? 0 : EIO);
}

Result<> PoolImpl::release(bool& progress) {
  progress = false;
  std::unique_lock serial(commit_mutex_);
  if (failed_) return std::unexpected(failure_);
  if (draining_.empty()) {
    if (committed_.empty()) return {};
    std::scoped_lock lock(mutex);
    draining_.swap(committed_);
    draining_hint_.store(true);
    phase_ ^= 1;
  }
  unsigned before;
  {
    std::scoped_lock lock(mutex);
    before = phase_ ^ 1;
  }
  if (in_flight_[before].load() != 0) return {};
  draining_hint_.store(false);
  std::vector<Run> runs = std::exchange(draining_, {});
  std::sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.start < b.start; });
  {
    std::scoped_lock lock(mutex);
    state->join_across_free_gaps(runs, joined_gap_bytes / block_size);
  }
  serial.unlock();

  for (Run rest : runs) {
    while (rest.count > 0) {
      Run run{rest.start, std::min(rest.count, punch_bytes / block_size)};
      {
        std::scoped_lock again(commit_mutex_);
        auto r = channel_->discard(run.start * block_size, run.count * block_size);
        if (auto noted = note_failure(r); !noted) return noted;
        std::scoped_lock lock(mutex);
        state->give_released(run);
        while (SpaceWaiter* waiter = space_waiters_) {
          space_waiters_ = waiter->next;
          waiter->resume(*waiter);
        }
      }
      rest.start += run.count;
      rest.count -= run.count;
      bool wanted;
      {
        std::scoped_lock lock(requests_mutex_);
        wanted = !commit_requests_.empty();
      }
      if (wanted) serve_commits();
    }
  }
  progress = true;
  return {};
}

Result<> PoolImpl::release_all() {
  for (;;) {
    if (auto r = commit(); !r) return r;
    bool progress = true;
    while (progress)
      if (auto r = release(progress); !r) return r;
    {
      std::scoped_lock serial(commit_mutex_);
      std::scoped_lock lock(mutex);
      if (draining_.empty() && committed_.empty() && state->releasing_blocks() == 0) return {};
    }
    if (!background()) return {};  // requests are in flight on this very thread
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void PoolImpl::run() {
  for (;;) {
    bool stopping;
    {
      std::unique_lock lock(requests_mutex_);
      wakeup_.wait_for(lock, options.commit_interval, [&] { return woken_ || stopping_; });
      woken_ = false;
      stopping = stopping_;
    }
    serve_commits();
    bool progress = true;
    while (progress && release(progress)) {
    }
    if (stopping) return;
  }
}

Result<> PoolImpl::grow(std::uint64_t size) {
  std::scoped_lock serial(commit_mutex_);
  if (auto r = commit_locked(); !r) return r;
  std::uint64_t bytes = size / superblock_.chunk_bytes * superblock_.chunk_bytes;
  // Larger checkpoint areas go to the beginning of the new space; the old ones become data.
  if (std::uint64_t least = least_grown_bytes(superblock_); bytes < least)
    return fail(ErrorKind::invalid_argument,
                "pool '{}' has {} and cannot grow to {}: {} is the least, as its map moves to the "
                "new space",
                store->name(), format_size_exactly(superblock_.pool_bytes),
                format_size_exactly(size), format_size_exactly(least));
  std::uint64_t area = checkpoint_area_bytes(bytes, superblock_.node_limit);
  const Area old[2] = {superblock_.checkpoints[0], superblock_.checkpoints[1]};
  superblock_.checkpoints[0] = {superblock_.pool_bytes, area};
  superblock_.checkpoints[1] = {superblock_.pool_bytes + area, area};
  superblock_.pool_bytes = bytes;
  auto r = checkpoint_locked(false, [&] {
    state->grow(bytes / block_size,
                {{superblock_.checkpoints[0].offset / block_size, 2 * area / block_size}});
  });
  if (!r) return r;
  std::scoped_lock lock(mutex);
  for (const Area& a : old)
    state->give_back_metadata({a.offset / block_size, a.length / block_size});
  return {};
}

}  // namespace tidepool::pool
