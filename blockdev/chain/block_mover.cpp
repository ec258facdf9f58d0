#include "blockdev/chain/block_mover.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace tidepool::blockdev::chain {

namespace {

constexpr std::uint64_t commit_blocks = 16'384;  // 64 MiB

struct Gap {
  std::uint64_t block = 0, count = 0;
};

// Where `map` holds nothing.
std::vector<Gap> gaps_in(const ExtentMap& map, std::uint64_t begin, std::uint64_t end) {
  std::vector<Gap> gaps;
  std::uint64_t at = begin;
  map.for_range(begin, end, [&](const Extent& e) {
    if (e.block > at) gaps.push_back({at, e.block - at});
    at = e.end();
    return true;
  });
  if (at < end) gaps.push_back({at, end - at});
  return gaps;
}

}  // namespace

BlockMover::BlockMover(Chain& chain, std::uint32_t from, std::uint32_t to, Progress& progress)
    : chain_(chain),
      to_number_(to),
      from_(chain.layer(from)),
      to_(chain.layer(to)),
      progress_(progress),
      other_(block_bytes) {}

Result<std::unique_ptr<BlockMover>> BlockMover::open(Chain& chain, std::uint32_t from,
                                                     std::uint32_t to, Progress& progress) {
  std::unique_ptr<BlockMover> mover(new BlockMover(chain, from, to, progress));
  if (mover->to_.header_now().state == LayerState::sealed) {
    auto number = chain.widen(to);
    if (!number) return std::unexpected(number.error());
    mover->to_number_ = *number;
  }
  auto source = LayerReader::open(chain, mover->from_);
  if (!source) return std::unexpected(source.error());
  auto target = SyncChannel::open(mover->to_.locked_store());
  if (!target) return std::unexpected(target.error());
  mover->source_ = std::move(*source);
  mover->target_ = std::move(*target);
  const std::lock_guard lock(chain.lock());
  progress.total.store(mover->from_.map().slots_used() * block_bytes);
  progress.done.store(0);
  return mover;
}

Result<> BlockMover::move_all(Result<> (BlockMover::*move)(const Piece&)) {
  auto moved = source_->for_pieces([&](const Piece& piece) -> Result<> {
    if (auto r = progress_.go_on(); !r) return r;
    if (auto r = (this->*move)(piece); !r) return r;
    if (piece.zero) return {};
    progress_.done.fetch_add(piece.count * block_bytes);
    return settle(piece.count);
  });
  if (moved) moved = to_.commit(chain_.lock());
  if (to_.header_now().state == LayerState::sealed) {
    const std::lock_guard lock(chain_.lock());
    chain_.index().trim(to_number_, to_.map().high_water());
  }
  return moved;
}

// What was mapped becomes stable now and then, so that a crash costs little.
Result<> BlockMover::settle(std::uint64_t blocks) {
  unsettled_ += blocks;
  if (unsettled_ < commit_blocks) return {};
  unsettled_ = 0;
  return to_.commit(chain_.lock());
}

Result<> BlockMover::take(std::uint64_t count) {
  runs_.clear();
  for (const bool last : {false, true}) {
    {
      const std::lock_guard lock(chain_.lock());
      if (to_.map().take(count, runs_)) return {};
    }
    if (last) break;
    if (auto r = to_.commit(chain_.lock()); !r) return r;  // slots that wait for it are free then
  }
  return fail(ErrorKind::no_space, "layer '{}' has no free slots", to_.name());
}

// What was read to the slots that were taken.
Result<> BlockMover::write() {
  const std::byte* data = source_->data().data();
  Result<> done;
  for (const SlotRun& run : runs_) {
    done = target_->write(to_.data_offset(run.slot), {data, run.count * block_bytes});
    if (!done) break;
    data += run.count * block_bytes;
  }
  if (done) return done;
  const std::lock_guard lock(chain_.lock());
  for (const SlotRun& run : runs_) to_.map().give_back(run);
  return done;
}

// Under the chain's lock. Where the index leads to `from`, it leads to `slot`s of
// `to` now.
void BlockMover::redirect(std::uint64_t block, std::uint64_t count, std::uint64_t slot) {
  std::vector<ChainPiece> pieces;
  chain_.index().for_range(block, block + count, [&](const ChainPiece& piece) {
    if (piece.kind == ChainPiece::Kind::data && &chain_.layer(piece.layer) == &from_)
      pieces.push_back(piece);
    return true;
  });
  for (const ChainPiece& piece : pieces)
    chain_.index().put_data(to_number_, piece.block, slot + (piece.block - block), piece.count);
}

// Under the chain's lock. Maps [block, block + count), which is what was written to
// the taken slots from the at-th on.
void BlockMover::map(std::uint64_t block, std::uint64_t at, std::uint64_t count) {
  std::uint64_t passed = 0;
  for (const SlotRun& run : runs_) {
    const std::uint64_t begin = std::max(passed, at), end = std::min(passed + run.count, at + count);
    if (begin < end) {
      const std::uint64_t first = block + (begin - at), slot = run.slot + (begin - passed);
      to_.map().map(first, {slot, end - begin}, &source_->hashes()[begin]);
      redirect(first, end - begin, slot);
    }
    passed += run.count;
  }
}

// --- down ---

Result<> BlockMover::down(bool again) {
  return move_all(again ? &BlockMover::move_down_again : &BlockMover::move_down);
}

Result<> BlockMover::move_down(const Piece& piece) {
  if (piece.zero) {
    const bool masks = to_.header().parent.kind != ParentKind::none;
    const std::lock_guard lock(chain_.lock());
    if (masks) {
      to_.map().zero(piece.block, piece.count);
    } else {
      to_.map().forget(piece.block, piece.count);
    }
    return {};
  }
  if (auto r = source_->read(piece); !r) return r;
  if (auto r = take(piece.count); !r) return r;
  if (auto r = write(); !r) return r;
  const std::lock_guard lock(chain_.lock());
  map(piece.block, 0, piece.count);
  return {};
}

// Block by block: whether `to` holds `block` with the content that is in the buffer
// at `number`; then the index leads there.
Result<bool> BlockMover::holds(std::uint64_t block, std::uint64_t number) {
  std::uint64_t slot = 0;
  {
    const std::lock_guard lock(chain_.lock());
    bool same = false;
    to_.map().extents().for_range(block, block + 1, [&](const Extent& e) {
      slot = e.physical;
      same = !e.unwritten && to_.map().hashes().find(slot) == source_->hashes()[number];
      return false;
    });
    if (!same) return false;
  }
  if (auto r = target_->read(to_.data_offset(slot), other_.span()); !r)
    return std::unexpected(r.error());
  if (std::memcmp(other_.data(), &source_->data()[number * block_bytes], block_bytes) != 0)
    return false;
  const std::lock_guard lock(chain_.lock());
  redirect(block, 1, slot);
  return true;
}

Result<> BlockMover::move_down_again(const Piece& piece) {
  if (piece.zero) return move_down(piece);
  if (auto r = source_->read(piece); !r) return r;
  for (std::uint64_t i = 0; i < piece.count; ++i) {
    auto there = holds(piece.block + i, i);
    if (!there) return std::unexpected(there.error());
    if (*there) continue;
    if (auto r = move_down({piece.block + i, piece.slot + i, 1, false}); !r) return r;
    if (auto r = source_->read(piece); !r) return r;
  }
  return {};
}

void BlockMover::relink() {
  const std::lock_guard lock(chain_.lock());
  to_.map().extents().for_range(0, to_.header().blocks(), [&](const Extent& e) {
    if (!e.unwritten) redirect(e.block, e.count, e.physical);
    return true;
  });
}

// --- up ---

Result<> BlockMover::up() { return move_all(&BlockMover::move_up); }

Result<> BlockMover::move_up(const Piece& piece) {
  std::vector<Gap> gaps;
  {
    const std::lock_guard lock(chain_.lock());
    gaps = gaps_in(to_.map().extents(), piece.block, piece.block + piece.count);
    if (piece.zero) {
      const bool masks = from_.header().parent.kind != ParentKind::none;
      for (const Gap& gap : gaps) {
        if (masks) to_.map().zero(gap.block, gap.count);
      }
      return {};
    }
  }
  for (const Gap& gap : gaps) {
    const Piece part{gap.block, piece.slot + (gap.block - piece.block), gap.count, false};
    if (auto r = source_->read(part); !r) return r;
    if (auto r = take(part.count); !r) return r;
    if (auto r = write(); !r) return r;
    // An active layer may have got newer blocks meanwhile: those stay.
    const std::lock_guard lock(chain_.lock());
    const auto left = gaps_in(to_.map().extents(), part.block, part.block + part.count);
    std::uint64_t at = 0;
    const auto unused = [&](std::uint64_t end) {
      std::uint64_t passed = 0;
      for (const SlotRun& run : runs_) {
        const std::uint64_t begin = std::max(passed, at), stop = std::min(passed + run.count, end);
        if (begin < stop) to_.map().give_back({run.slot + (begin - passed), stop - begin});
        passed += run.count;
      }
    };
    for (const Gap& still : left) {
      const std::uint64_t begin = still.block - part.block;
      unused(begin);
      map(still.block, begin, still.count);
      at = begin + still.count;
    }
    unused(part.count);
  }
  return {};
}

}  // namespace tidepool::blockdev::chain
