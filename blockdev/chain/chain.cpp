#include "blockdev/chain/chain.h"

#include <algorithm>
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
      layers_(std::move(layers)) {}

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
  return {.size = layers_.back()->header().size,
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
  for (const ChainPiece& piece : pieces) {
    const std::uint64_t begin = std::max(offset, piece.block * block_bytes);
    const std::uint64_t end =
        std::min(offset + length, (piece.block + piece.count) * block_bytes);
    Range range{begin, end - begin, RangeKind::hole, 0};
    if (piece.kind == ChainPiece::Kind::data) {
      range.kind = RangeKind::data;
      range.leaf_offset = layers_[piece.layer]->data_offset(piece.slot) +
                          (begin - piece.block * block_bytes);
    } else if (piece.kind == ChainPiece::Kind::absent && begin < base_size_) {
      bool more = true;
      auto located = base_->locate(begin, std::min(end, base_size_) - begin, [&](const Range& r) {
        more = sink(r);
        return more;
      });
      if (!located || !more) return located;
      if (end <= base_size_) continue;
      range = {base_size_, end - base_size_, RangeKind::hole, 0};
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
    const bool over_base = piece.block * block_bytes < base_size_;
    const bool data = piece.kind == ChainPiece::Kind::data;
    if (data || (piece.kind == ChainPiece::Kind::absent && over_base))
      mapped.push_back({piece.block, piece.count, over_base || layers() > 1});
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

void Chain::commit_loop() {
  for (bool stop = false; !stop;) {
    std::vector<std::function<void(int)>> served;
    {
      std::unique_lock lock(requests_mutex_);
      requests_changed_.wait(lock, [&] { return wanted_; });
      wanted_ = false;
      stop = stopping_;
      served.swap(waiting_);
    }
    int error = 0;
    if (auto done = stop ? top().close(mutex_) : top().commit(mutex_); !done) {
      error = done.error().errno_value;
      log().error("{}", done.error().message);
    }
    for (auto& done : served) done(error);
  }
}

}  // namespace tidepool::blockdev::chain
