#include "fs/pool/pool_channel.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "fs/pool/io_slices.h"
#include "fs/pool/pool_op.h"

namespace tidepool::pool {

using blockdev::IoOp;
using blockdev::IoRequest;

class PoolChannelImpl : public PoolChannel {
 public:
  PoolChannelImpl(Pool& pool, EventLoop& loop, std::unique_ptr<blockdev::IoChannel> store)
      : pool_(pool.impl()), loop_(loop), store_(std::move(store)) {
    auto geometry = pool_.store->geometry();
    logical_block_ = geometry.logical_block;
    memory_alignment_ = std::max(geometry.memory_alignment, 1u);
  }
  ~PoolChannelImpl() override {
    while (PoolOp* op = free_) {
      free_ = op->next_free;
      delete op;
    }
  }

  void submit(Disk& disk, IoRequest& request) override;

 private:
  // Steps of a request; each ends in store pieces (run) or in finish().
  void read(PoolOp& op);
  void copy_read(PoolOp& op);
  void begin_change(PoolOp& op);  // takes the range lock
  void change(PoolOp& op);        // the lock is held
  void write(PoolOp& op);
  void write_direct(PoolOp& op);
  void write_bounced(PoolOp& op);
  void write_bounce(PoolOp& op);
  void write_done(PoolOp& op);
  void clear_edges(PoolOp& op);
  void write_edge(PoolOp& op);
  void change_map(PoolOp& op);
  void flush(PoolOp& op);
  void finish(PoolOp& op);
  void retry(PoolOp& op);

  bool in_place(const PoolOp& op) const;  // under mutex
  bool is_direct(const PoolOp& op) const;
  bool obtain(PoolOp& op, std::uint64_t begin, std::uint64_t end, int& error);  // under mutex
  void look_up(PoolOp& op);                                                     // under mutex
  Piece& add_piece(PoolOp& op, IoOp kind, std::uint64_t pool_offset, std::uint64_t length);
  void run(PoolOp& op, void (PoolChannelImpl::*then)(PoolOp&));
  static void piece_done(IoRequest& io, int error);
  PoolOp& take_op();

  PoolImpl& pool_;
  EventLoop& loop_;
  std::unique_ptr<blockdev::IoChannel> store_;
  std::uint32_t logical_block_ = 512;
  std::uint32_t memory_alignment_ = 1;
  PoolOp* free_ = nullptr;
};

Result<std::unique_ptr<PoolChannel>> PoolChannel::open(Pool& pool, EventLoop& loop) {
  auto store = pool.impl().store->open_channel(loop);
  if (!store) return std::unexpected(store.error());
  return std::make_unique<PoolChannelImpl>(pool, loop, std::move(*store));
}

PoolOp& PoolChannelImpl::take_op() {
  PoolOp* op = free_;
  if (op) {
    free_ = op->next_free;
  } else {
    op = new PoolOp;
    op->channel = this;
    op->granted = [](RangeLock& lock) {
      auto& self = static_cast<PoolOp&>(lock);
      self.channel->loop_.post([&self] {
        self.holds_lock = true;
        self.channel->change(self);
      });
    };
    op->resume = [](SpaceWaiter& waiter) {
      auto& self = static_cast<PoolOp&>(waiter);
      self.channel->loop_.post([&self] { self.channel->change(self); });
    };
  }
  op->holds_lock = op->entered = false;
  op->error = 0;
  op->edge = 0;
  op->used_pieces = 0;
  op->fresh.clear();
  op->allocated.clear();
  return *op;
}

void PoolChannelImpl::submit(Disk& disk, IoRequest& request) {
  PoolOp& op = take_op();
  op.disk = &disk;
  op.request = &request;
  op.offset = request.offset;
  op.length = request.length;
  constexpr std::uint64_t limit = PackedExtent::block_limit * block_size;
  bool in_bounds = request.offset <= limit && request.length <= limit - request.offset;
  if (request.op != IoOp::flush && (!in_bounds || request.length == 0)) {
    op.error = in_bounds ? 0 : (request.op == IoOp::read ? EINVAL : EFBIG);
    return finish(op);
  }
  if (request.op == IoOp::read) return read(op);
  if (pool_.options.read_only || pool_.failed()) {
    op.error = pool_.options.read_only ? EROFS : EIO;
    if (request.op == IoOp::flush && pool_.options.read_only) op.error = 0;
    return finish(op);
  }
  if (request.op == IoOp::flush) return flush(op);
  begin_change(op);
}

// --- pieces ---

Piece& PoolChannelImpl::add_piece(PoolOp& op, IoOp kind, std::uint64_t pool_offset,
                                  std::uint64_t length) {
  if (op.used_pieces == op.pieces.size()) {
    op.pieces.push_back(new Piece);
    op.pieces.back()->owner = &op;
  }
  Piece& piece = *op.pieces[op.used_pieces++];
  piece.op = kind;
  piece.offset = pool_offset;
  piece.length = length;
  piece.complete = piece_done;
  piece.vectors.clear();
  return piece;
}

void PoolChannelImpl::run(PoolOp& op, void (PoolChannelImpl::*then)(PoolOp&)) {
  if (op.used_pieces == 0) return (this->*then)(op);
  op.then = then;
  std::size_t count = std::exchange(op.used_pieces, 0);
  op.pending = static_cast<unsigned>(count);
  for (std::size_t i = 0; i < count; ++i) {  // the op may be gone after the last one
    Piece& piece = *op.pieces[i];
    piece.buffers = piece.vectors.data();
    piece.buffer_count = static_cast<unsigned>(piece.vectors.size());
    store_->submit(piece);
  }
}

void PoolChannelImpl::piece_done(IoRequest& io, int error) {
  PoolOp& op = *static_cast<Piece&>(io).owner;
  if (error != 0 && op.error == 0) op.error = error;
  if (--op.pending == 0) (op.channel->*op.then)(op);
}

void PoolChannelImpl::finish(PoolOp& op) {
  if (op.entered) pool_.leave(op.phase);
  IoRequest& request = *op.request;
  int error = op.error;
  op.next_free = free_;
  free_ = &op;
  request.complete(request, error);
}

void PoolChannelImpl::look_up(PoolOp& op) {
  if (!op.entered) {
    op.phase = pool_.enter();
    op.entered = true;
  }
  op.extents.clear();
  op.disk->map.for_range(op.first_block(), op.end_block(), [&](const Extent& e) {
    op.extents.push_back(e);
    return true;
  });
}

// --- reading ---

bool PoolChannelImpl::is_direct(const PoolOp& op) const {
  return ((op.offset | op.length) & (logical_block_ - 1)) == 0 &&
         is_aligned(*op.request, memory_alignment_) &&
         (op.request->buffer_count == 1 || is_aligned(*op.request, logical_block_));
}

void PoolChannelImpl::read(PoolOp& op) {
  {
    std::scoped_lock lock(pool_.mutex);
    look_up(op);
  }
  bool direct = is_direct(op);
  std::uint64_t base = op.first_block() * block_size;
  if (!direct) op.bounce = blockdev::AlignedBuffer(op.end_block() * block_size - base);
  std::uint64_t at = op.offset, end = op.offset + op.length;
  for (const Extent& e : op.extents) {
    if (e.unwritten) continue;
    if (!direct) {
      Piece& piece =
          add_piece(op, IoOp::read, e.physical * block_size, std::uint64_t{e.count} * block_size);
      piece.vectors.push_back({op.bounce.data() + (e.block * block_size - base), piece.length});
      continue;
    }
    std::uint64_t from = std::max(e.block * block_size, op.offset);
    std::uint64_t to = std::min(e.end() * block_size, end);
    if (from > at) fill_zero(*op.request, at - op.offset, from - at);
    Piece& piece =
        add_piece(op, IoOp::read, e.physical * block_size + (from - e.block * block_size), to - from);
    slice(*op.request, from - op.offset, to - from, piece.vectors);
    at = to;
  }
  if (direct && at < end) fill_zero(*op.request, at - op.offset, end - at);
  run(op, direct ? &PoolChannelImpl::finish : &PoolChannelImpl::copy_read);
}

void PoolChannelImpl::copy_read(PoolOp& op) {
  copy_in(*op.request, 0, op.bounce.span().subspan(op.offset % block_size, op.length));
  finish(op);
}

// --- changing: lock, look, allocate, write, map ---

bool PoolChannelImpl::in_place(const PoolOp& op) const {
  if (op.request->op != IoOp::write || !is_direct(op)) return false;
  std::uint64_t at = op.first_block();
  bool whole = true;
  op.disk->map.for_range(at, op.end_block(), [&](const Extent& e) {
    whole = e.block == at && !e.unwritten;
    at = e.end();
    return whole;
  });
  return whole && at == op.end_block();
}

void PoolChannelImpl::begin_change(PoolOp& op) {
  {
    std::scoped_lock lock(pool_.mutex);
    op.begin = op.first_block();
    op.end = op.end_block();
    op.exclusive = !in_place(op);
    if (!op.disk->locks.acquire(op)) return;  // change() follows when it is granted
    op.holds_lock = true;
  }
  change(op);
}

void PoolChannelImpl::change(PoolOp& op) {
  if (pool_.failed()) {
    op.error = EIO;
    return write_done(op);
  }
  if (op.request->op == IoOp::write) return write(op);
  clear_edges(op);
}

// Allocates for the unmapped blocks of [begin, end) into op.fresh. False: not now
// (the op waits and change() is called again) or not at all (error is set).
bool PoolChannelImpl::obtain(PoolOp& op, std::uint64_t begin, std::uint64_t end, int& error) {
  std::uint64_t mapped = 0;
  for (const Extent& e : op.extents) mapped += e.count;
  std::uint64_t wanted = end - begin - mapped;
  if (wanted == 0) return true;
  switch (pool_.state->admit(*op.disk->vm, wanted)) {
    case Admission::no_space:
      error = ENOSPC;
      return false;
    case Admission::wait:
      pool_.leave(op.phase);  // what it waits for may wait for it
      op.entered = false;
      if (pool_.background()) pool_.wait_for_space(op);
      return false;
    case Admission::granted:
      break;
  }
  std::uint64_t at = begin;
  auto fill = [&](std::uint64_t to) {
    if (to > at) pool_.state->allocate(*op.disk, at, to - at, op.fresh);
  };
  for (const Extent& e : op.extents) {
    fill(e.block);
    at = e.end();
  }
  fill(end);
  op.allocated.assign(op.fresh.size(), true);
  return true;
}

void PoolChannelImpl::retry(PoolOp& op) {
  if (pool_.background()) return pool_.wake();  // resumed by the release
  bool progress = true;
  auto r = pool_.commit();
  while (r && progress) r = pool_.release(progress);
  if (r) return op.resume(op);  // by the loop: requests that hold the space back may end first
  op.error = EIO;
  write_done(op);
}

void PoolChannelImpl::write(PoolOp& op) {
  bool wait = false;
  {
    std::scoped_lock lock(pool_.mutex);
    if (!op.exclusive && !in_place(op)) {
      // While it waited for its turn, the blocks were unmapped: now it must allocate.
      op.disk->locks.release(op);
      op.exclusive = true;
      op.holds_lock = false;
      if (!op.disk->locks.acquire(op)) return;
      op.holds_lock = true;
    }
    look_up(op);
    int error = 0;
    if (!obtain(op, op.first_block(), op.end_block(), error)) {
      if (error == 0) wait = true;
      op.error = error;
    } else {
      for (const Extent& e : op.extents) {
        if (!e.unwritten) continue;
        op.fresh.push_back(e);
        op.allocated.push_back(false);
      }
    }
  }
  if (wait) return retry(op);
  if (op.error != 0) return write_done(op);
  bool whole_blocks = ((op.offset | op.length) & (block_size - 1)) == 0;
  bool expose = pool_.options.sabotage.expose_old_content;
  if (is_direct(op) && (whole_blocks || !op.exclusive || expose)) return write_direct(op);
  write_bounced(op);
}

void PoolChannelImpl::write_direct(PoolOp& op) {
  std::uint64_t end = op.offset + op.length;
  auto add = [&](const Extent& e) {
    std::uint64_t from = std::max(e.block * block_size, op.offset);
    std::uint64_t to = std::min(e.end() * block_size, end);
    Piece& piece =
        add_piece(op, IoOp::write, e.physical * block_size + (from - e.block * block_size), to - from);
    slice(*op.request, from - op.offset, to - from, piece.vectors);
  };
  for (const Extent& e : op.extents)
    if (!e.unwritten) add(e);
  for (const Extent& e : op.fresh) add(e);
  run(op, &PoolChannelImpl::write_done);
}

// Whole blocks through memory of our own: the edges are read first where they hold
// data, and are zeros elsewhere.
void PoolChannelImpl::write_bounced(PoolOp& op) {
  std::uint64_t base = op.first_block(), last = op.end_block() - 1;
  op.bounce = blockdev::AlignedBuffer((op.end_block() - base) * block_size);
  bool head = op.offset % block_size != 0, tail = (op.offset + op.length) % block_size != 0;
  for (const Extent& e : op.extents) {
    if (e.unwritten) continue;
    auto read_block = [&](std::uint64_t block) {
      Piece& piece =
          add_piece(op, IoOp::read, (e.physical + (block - e.block)) * block_size, block_size);
      piece.vectors.push_back({op.bounce.data() + (block - base) * block_size, block_size});
    };
    if (head && e.block <= base && base < e.end()) read_block(base);
    if (tail && e.block <= last && last < e.end() && !(head && base == last)) read_block(last);
  }
  run(op, &PoolChannelImpl::write_bounce);
}

void PoolChannelImpl::write_bounce(PoolOp& op) {
  if (op.error != 0) return write_done(op);
  auto target = op.bounce.span().subspan(op.offset % block_size, op.length);
  copy_out(*op.request, op.offset - op.request->offset, target);
  std::uint64_t base = op.first_block();
  auto add = [&](const Extent& e) {
    Piece& piece =
        add_piece(op, IoOp::write, e.physical * block_size, std::uint64_t{e.count} * block_size);
    piece.vectors.push_back({op.bounce.data() + (e.block - base) * block_size, piece.length});
  };
  for (const Extent& e : op.extents)
    if (!e.unwritten) add(e);
  for (const Extent& e : op.fresh) add(e);
  run(op, &PoolChannelImpl::write_done);
}

// The end of every change: maps what was written (or gives it back), unlocks.
void PoolChannelImpl::write_done(PoolOp& op) {
  {
    std::scoped_lock lock(pool_.mutex);
    PoolState& state = *pool_.state;
    for (std::size_t i = 0; i < op.fresh.size(); ++i) {
      if (op.error == 0)
        state.map_written(*op.disk, op.fresh[i]);
      else if (op.allocated[i])
        state.abandon(*op.disk, op.fresh[i]);
    }
    if (op.request->op == IoOp::write && op.error == 0)
      state.touch(*op.disk, op.request->offset + op.request->length);
    pool_.unflushed_data = true;
    if (op.holds_lock) op.disk->locks.release(op);
  }
  if (op.error != 0 || !op.request->force_unit_access) return finish(op);
  if (op.entered) {
    pool_.leave(op.phase);
    op.entered = false;
  }
  flush(op);
}

// --- discard, zero, allocate ---

// Bytes of blocks that the request covers in part are overwritten with zeros, one
// edge after the other; then the map changes for the blocks it covers whole.
void PoolChannelImpl::clear_edges(PoolOp& op) {
  const IoRequest& request = *op.request;
  std::uint64_t begin = request.offset, end = request.offset + request.length;
  while (request.op != IoOp::allocate && op.edge < 2 && op.error == 0) {
    std::uint64_t from = op.edge == 0 ? begin : std::max(begin, end / block_size * block_size);
    std::uint64_t to = op.edge == 0 ? std::min(end, (begin / block_size + 1) * block_size) : end;
    bool whole = from % block_size == 0 && to - from == block_size;
    bool same_as_head =
        op.edge == 1 && begin / block_size == from / block_size && begin % block_size != 0;
    ++op.edge;
    if (from >= to || whole || same_as_head) continue;
    op.offset = from;
    op.length = to - from;
    {
      std::scoped_lock lock(pool_.mutex);
      look_up(op);
    }
    if (op.extents.empty() || op.extents.front().unwritten) continue;  // zeros already
    auto& block = op.extents.front();
    op.bounce = blockdev::AlignedBuffer(block_size);
    add_piece(op, IoOp::read, block.physical * block_size, block_size)
        .vectors.push_back({op.bounce.data(), block_size});
    return run(op, &PoolChannelImpl::write_edge);
  }
  op.offset = begin;
  op.length = request.length;
  if (op.error != 0) return write_done(op);
  change_map(op);
}

void PoolChannelImpl::write_edge(PoolOp& op) {
  if (op.error != 0) return write_done(op);
  std::memset(op.bounce.data() + op.offset % block_size, 0, op.length);
  add_piece(op, IoOp::write, op.extents.front().physical * block_size, block_size)
      .vectors.push_back({op.bounce.data(), block_size});
  run(op, &PoolChannelImpl::clear_edges);
}

void PoolChannelImpl::change_map(PoolOp& op) {
  std::uint64_t end_byte = op.offset + op.length;
  std::uint64_t whole_begin = (op.offset + block_size - 1) / block_size;
  std::uint64_t whole_end = std::max(whole_begin, end_byte / block_size);
  bool wait = false;
  {
    std::scoped_lock lock(pool_.mutex);
    PoolState& state = *pool_.state;
    if (op.request->op == IoOp::discard) {
      state.unmap(*op.disk, whole_begin, whole_end);
    } else {
      look_up(op);
      int error = 0;
      if (!obtain(op, op.first_block(), op.end_block(), error)) {
        wait = error == 0;
        op.error = error;
      } else {
        for (const Extent& e : op.fresh) state.map_provisioned(*op.disk, e);
        op.fresh.clear();
        op.allocated.clear();
        if (op.request->op == IoOp::zero) state.map_as_zero(*op.disk, whole_begin, whole_end);
      }
    }
  }
  if (wait) return retry(op);
  write_done(op);
}

// --- flush ---

void PoolChannelImpl::flush(PoolOp& op) {
  bool scratch;
  {
    std::scoped_lock lock(pool_.mutex);
    scratch = op.disk->vm->settings.durability == Durability::scratch;
  }
  if (scratch) {
    if (pool_.background()) pool_.wake();
    return finish(op);
  }
  if (!pool_.background()) {
    if (!pool_.commit()) op.error = EIO;
    return finish(op);
  }
  pool_.commit_async([&op](int error) {
    op.channel->loop_.post([&op, error] {
      op.error = error;
      op.channel->finish(op);
    });
  });
}

}  // namespace tidepool::pool
