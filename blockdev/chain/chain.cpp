#include "blockdev/chain/chain.h"

#include <algorithm>
#include <chrono>
#include <future>
#include <utility>

#include "base/log.h"
#include "blockdev/chain/chain_channel.h"

namespace tidepool::blockdev::chain {

Chain::Chain(std::shared_ptr<BlockStore> base, std::vector<std::unique_ptr<LayerFile>> layers,
             const ChainOptions& options)
    : options_(options),
      base_(std::move(base)),
      base_size_(base_ ? base_->geometry().size : 0),
      name_(layers.back()->name()),
      size_(layers.back()->header().size),
      layers_(std::make_move_iterator(layers.begin()), std::make_move_iterator(layers.end())),
      top_number_(static_cast<std::uint32_t>(layers_.size() - 1)) {
  layers_.reserve(std::max(layers_.size(), most_layers));
  for (std::uint32_t i = 0; i < layers_.size(); ++i) order_.push_back(i);
}

Result<std::shared_ptr<Chain>> Chain::assemble(std::shared_ptr<BlockStore> base,
                                               std::vector<std::unique_ptr<LayerFile>> layers,
                                               const ChainOptions& options) {
  const LayerFile& top = *layers.back();
  if (!options.read_only && top.header().state == LayerState::sealed) {
    return fail(ErrorKind::permission,
                "layer '{}' is sealed (checkpoint '{}'): create a layer on top of it to write",
                top.name(), top.header().name);
  }
  std::shared_ptr<Chain> chain(new Chain(std::move(base), std::move(layers), options));
  std::vector<std::vector<Extent>> extents;
  for (const auto& layer : chain->layers_) {
    const bool grows = layer == chain->layers_.back() && !options.read_only;
    auto added =
        chain->index_.add_layer(grows ? layer->header().slots : layer->map().high_water());
    if (!added) return std::unexpected(added.error());
    auto& own = extents.emplace_back();
    own.reserve(layer->map().extents().size());
    const std::uint64_t blocks = chain->layers_.back()->header().blocks();
    layer->map().extents().for_range(0, blocks, [&](const Extent& e) {
      own.push_back(e);
      return true;
    });
  }
  chain->index_.build(extents);
  if (!options.read_only) chain->committer_ = std::thread([c = chain.get()] { c->commit_loop(); });
  return chain;
}

Chain::~Chain() {
  if (!committer_.joinable()) return;
  {
    const std::lock_guard lock(requests_mutex_);
    stopping_ = wanted_ = true;
  }
  requests_changed_.notify_one();
  committer_.join();
}

Geometry Chain::geometry() const {
  return {.size = size_,
          .logical_block = 1,
          .memory_alignment = 1,
          .read_only = options_.read_only,
          .can_discard = !options_.read_only};
}

Result<std::unique_ptr<IoChannel>> Chain::open_channel(EventLoop& loop) {
  return std::make_unique<ChainChannel>(*this, loop);
}

Result<> Chain::locate(std::uint64_t offset, std::uint64_t length,
                       const std::function<bool(const Range&)>& sink) {
  std::vector<ChainPiece> pieces;
  {
    const std::lock_guard lock(mutex_);
    index_.for_range(offset / block_bytes, (offset + length + block_bytes - 1) / block_bytes,
                     [&](const ChainPiece& piece) {
                       pieces.push_back(piece);
                       return true;
                     });
  }
  const std::uint64_t base_size = this->base_size();
  for (const ChainPiece& piece : pieces) {
    const std::uint64_t begin = std::max(offset, piece.block * block_bytes);
    const std::uint64_t end =
        std::min(offset + length, (piece.block + piece.count) * block_bytes);
    Range range{begin, end - begin, RangeKind::hole, 0};
    if (piece.kind == ChainPiece::Kind::data) {
      range.kind = RangeKind::data;
      range.leaf_offset = layers_[piece.layer]->data_offset(piece.slot) +
                          (begin - piece.block * block_bytes);
    } else if (piece.kind == ChainPiece::Kind::absent && begin < base_size) {
      bool more = true;
      auto located = base_->locate(begin, std::min(end, base_size) - begin, [&](const Range& r) {
        more = sink(r);
        return more;
      });
      if (!located || !more) return located;
      if (end <= base_size) continue;
      range = {base_size, end - base_size, RangeKind::hole, 0};
    }
    if (!sink(range)) break;
  }
  return {};
}

void Chain::clear(std::uint64_t block, std::uint64_t count) {
  struct Mapped {
    std::uint64_t block, count;
    bool masks;  // something else may lie below
  };
  std::vector<Mapped> mapped;
  index_.for_range(block, block + count, [&](const ChainPiece& piece) {
    const bool over_base = piece.block * block_bytes < base_size();
    const bool data = piece.kind == ChainPiece::Kind::data;
    if (data || (piece.kind == ChainPiece::Kind::absent && over_base))
      mapped.push_back({piece.block, piece.count, over_base || order_.size() > 1});
    return true;
  });
  for (const Mapped& m : mapped) {
    if (m.masks) {
      top().map().zero(m.block, m.count);
      index_.put_zero(m.block, m.count);
    } else {
      top().map().forget(m.block, m.count);
      index_.forget(m.block, m.count);
    }
  }
}

void Chain::commit_async(std::function<void(int error)> done) {
  {
    const std::lock_guard lock(requests_mutex_);
    waiting_.push_back(std::move(done));
    wanted_ = true;
  }
  requests_changed_.notify_one();
}

void Chain::wake_committer() {
  {
    const std::lock_guard lock(requests_mutex_);
    wanted_ = true;
  }
  requests_changed_.notify_one();
}

Result<> Chain::commit() {
  std::promise<int> promise;
  commit_async([&](int error) { promise.set_value(error); });
  const int error = promise.get_future().get();
  if (error != 0) return fail_errno(error, fmt::format("cannot flush '{}'", name()));
  return {};
}

bool Chain::enter(HeldChange& change) {
  if (!switching_) {
    ++in_flight_;
    return true;
  }
  change.next = held_;
  held_ = &change;
  return false;
}

void Chain::leave() {
  if (--in_flight_ > 0 || !switching_) return;
  {
    const std::lock_guard lock(requests_mutex_);
    drained_ = true;
  }
  requests_changed_.notify_one();
}

bool Chain::is_commit_due() {
  constexpr std::uint64_t most = std::uint64_t{1} << 18;
  const LayerMap& map = top().map();
  const std::uint64_t spare = map.slots() - (size_ + block_bytes - 1) / block_bytes;
  return map.freed_slots() >= options_.most_freed.value_or(std::min(most, spare / 2));
}

Result<Chain::Held> Chain::checkpoint(Checkpoint asked) {
  std::promise<Result<Held>> promise;
  auto done = promise.get_future();
  {
    const std::lock_guard lock(requests_mutex_);
    checkpoints_.emplace_back(std::move(asked), std::move(promise));
    wanted_ = true;
  }
  requests_changed_.notify_one();
  return done.get();
}

std::unexpected<Error> Chain::too_many_layers() const {
  return fail(ErrorKind::no_space,
              "chain '{}' has had {} layers and merges, the most there may be: serve it anew", name_,
              layers_.size());
}

// The instant: everything before it is the old top's, everything after it the new
// one's. Commits first, so that little is left to do while changes wait.
Result<Chain::Held> Chain::switch_top(std::unique_ptr<LayerFile> fresh) {
  LayerFile& old = top();
  if (layers_.size() >= most_layers) return too_many_layers();
  if (auto r = old.commit(mutex_); !r) return std::unexpected(r.error());
  const auto begin = std::chrono::steady_clock::now();
  {
    const std::lock_guard lock(mutex_);
    const std::lock_guard requests(requests_mutex_);
    switching_ = true;
    drained_ = in_flight_ == 0;
  }
  for (;;) {
    std::vector<std::function<void(int)>> served;  // changes may wait for free slots
    {
      std::unique_lock lock(requests_mutex_);
      requests_changed_.wait(lock, [&] { return drained_ || !waiting_.empty(); });
      if (drained_) break;
      served.swap(waiting_);
    }
    const auto done = old.commit(mutex_);
    for (auto& answer : served) answer(done ? 0 : done.error().errno_value);
  }
  std::optional<Error> failed;
  const std::lock_guard lock(mutex_);
  const std::uint32_t old_number = top_number();
  index_.trim(old_number, old.map().high_water());
  if (auto added = index_.add_layer(fresh->header().slots); added) {
    layers_.push_back(std::move(fresh));
    order_.push_back(*added);
    top_number_.store(*added);
  } else {
    index_.trim(old_number, old.header().slots);
    failed = added.error();
  }
  switching_ = false;
  while (HeldChange* const change = held_) {
    held_ = change->next;
    change->resume(*change);
  }
  if (failed) return std::unexpected(*failed);
  return std::chrono::duration_cast<Held>(std::chrono::steady_clock::now() - begin);
}

Result<> Chain::commit_top() {
  if (unpublished_) return std::unexpected(*unpublished_);
  return top().commit(mutex_);
}

void Chain::commit_loop() {
  for (bool stop = false; !stop;) {
    std::vector<std::function<void(int)>> served;
    std::optional<std::pair<Checkpoint, std::promise<Result<Held>>>> asked;
    {
      std::unique_lock lock(requests_mutex_);
      requests_changed_.wait(lock, [&] { return wanted_; });
      if (!checkpoints_.empty()) {
        asked = std::move(checkpoints_.front());
        checkpoints_.pop_front();
      } else {
        wanted_ = false;
        stop = stopping_;
        served.swap(waiting_);
      }
    }
    if (asked) {
      asked->second.set_value(make_checkpoint(asked->first));
      continue;
    }
    auto done = commit_top();
    if (done && stop) {
      punch_while_idle();
      done = top().close(mutex_);
    }
    if (!done) log().error("{}", done.error().message);
    for (auto& answer : served) answer(done ? 0 : done.error().errno_value);
    if (done && !stop) punch_while_idle();
  }
}

void Chain::punch_while_idle() {
  for (;;) {
    {
      const std::lock_guard lock(requests_mutex_);
      if (wanted_ && !stopping_) return;
    }
    auto more = top().punch(mutex_);
    if (!more) log().warn("space is not given back: {}", more.error().message);
    if (!more || !*more) return;
  }
}

std::vector<std::uint32_t> Chain::order() {
  const std::lock_guard lock(mutex_);
  return order_;
}

unsigned Chain::begin_read() {
  readers_[epoch_].fetch_add(1);
  return epoch_;
}

void Chain::wait_for_readers() {
  unsigned before = 0;
  {
    const std::lock_guard lock(mutex_);
    before = std::exchange(epoch_, epoch_ ^ 1);
  }
  while (readers_[before].load() != 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

Result<std::unique_lock<std::mutex>> Chain::administer() {
  if (options_.read_only) {
    return fail(ErrorKind::permission, "chain '{}' is open read-only: its layers stay as they are",
                name_);
  }
  std::unique_lock lock(administration_, std::try_to_lock);
  if (lock.owns_lock()) return lock;
  return fail(ErrorKind::busy,
              "chain '{}': a checkpoint, commit or deletion is running: wait for its end", name_);
}

Result<std::uint32_t> Chain::widen(std::uint32_t number) {
  const std::lock_guard lock(mutex_);
  if (layers_.size() >= most_layers) return too_many_layers();
  auto added = index_.add_layer(layers_[number]->header().slots);
  if (added) layers_.push_back(layers_[number]);
  return added;
}

void Chain::retire(std::uint32_t number) {
  {
    const std::lock_guard lock(mutex_);
    std::erase(order_, number);
    for (std::uint32_t i = 0; i < layers_.size(); ++i)
      if (layers_[i] == layers_[number]) index_.drop_layer(i);
  }
  wait_for_readers();
}

void Chain::base_changed(std::uint64_t size, std::shared_ptr<BlockStore> keeper) {
  base_size_.store(size);
  base_keeper_ = std::move(keeper);
}

Result<Chain::Held> Chain::make_checkpoint(const Checkpoint& asked) {
  if (unpublished_) return std::unexpected(*unpublished_);
  LayerFile& old = top();
  auto fresh = asked.prepare(old);
  if (!fresh) return std::unexpected(fresh.error());
  auto held = switch_top(std::move(*fresh));
  if (!held) return held;
  auto done = old.seal(mutex_, asked.name, asked.merge);
  if (done) done = asked.publish(old, top());
  if (done) return held;
  unpublished_ = done.error();
  return std::unexpected(done.error());
}

}  // namespace tidepool::blockdev::chain
