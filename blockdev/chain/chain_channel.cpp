#include "blockdev/chain/chain_channel.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "blockdev/request_check.h"

namespace tidepool::blockdev::chain {

namespace {

// How often a read looks again when its block moved meanwhile.
constexpr unsigned most_tries = 100;

bool is_zero(const std::byte* data) {
  std::uint64_t first = 0;
  std::memcpy(&first, data, sizeof first);
  return first == 0 && std::memcmp(data, data + sizeof first, block_bytes - sizeof first) == 0;
}

// Consecutive blocks that are written alike.
struct Segment {
  std::uint64_t block = 0, count = 0;
  bool zero = false;
};

bool same(const ChainPiece& a, const ChainPiece& b) {
  return a.kind == b.kind && a.block == b.block && a.count == b.count && a.layer == b.layer &&
         a.slot == b.slot;
}

}  // namespace

struct ChainChannel::Piece : IoRequest {
  ChainOp* owner = nullptr;
  iovec vector{};
};

struct ChainOp : RangeLock, Chain::HeldChange {
  ChainChannel* channel = nullptr;
  ChainOp* next_free = nullptr;
  IoRequest* request = nullptr;
  int error = 0;
  bool holds_lock = false;
  bool in_flight = false;
  bool has_slots = false;
  bool committed = false;  // waited for a commit once, to have free slots
  bool reading = false;
  unsigned epoch = 0;  // of the chain's reads
  unsigned tries = 0;
  unsigned pending = 0;
  void (ChainChannel::*then)(ChainOp&) = nullptr;

  // The blocks [first, last] of the request, and their bytes: the request's own
  // buffer, or `bounce`; of a clear, only the blocks covered in part, one or two.
  std::uint64_t first = 0, last = 0;
  bool head_partial = false, tail_partial = false;
  bool edges_only = false;
  std::byte* data = nullptr;
  AlignedBuffer bounce;

  std::vector<ChainPiece> pieces;
  std::vector<std::uint64_t> expected;  // hash of each block of the data pieces, in order
  std::vector<Segment> segments;
  std::vector<SlotRun> runs;
  std::vector<std::uint64_t> hashes;  // of the blocks that are written to the runs
  std::vector<std::unique_ptr<ChainChannel::Piece>> ios;
  std::size_t used_ios = 0;

  bool partial() const { return head_partial || tail_partial; }
  std::byte* bytes_of(std::uint64_t block) const {
    if (edges_only) return data + (block == first ? 0 : block_bytes);
    return data + (block - first) * block_bytes;
  }
};

ChainChannel::ChainChannel(Chain& chain, EventLoop& loop) : chain_(chain), loop_(loop) {}
ChainChannel::~ChainChannel() = default;

ChainOp& ChainChannel::take_op(IoRequest& request) {
  ChainOp* op = free_;
  if (op) {
    free_ = op->next_free;
  } else {
    op = ops_.emplace_back(std::make_unique<ChainOp>()).get();
    op->channel = this;
    op->granted = [](RangeLock& lock) {
      auto& self = static_cast<ChainOp&>(lock);
      self.channel->loop_.post([&self] {
        self.holds_lock = true;
        self.channel->change(self);
      });
    };
    op->resume = [](Chain::HeldChange& change) {
      auto& self = static_cast<ChainOp&>(change);
      self.channel->loop_.post([&self] { self.channel->lock_range(self); });
    };
  }
  op->request = &request;
  op->error = 0;
  op->holds_lock = op->in_flight = op->has_slots = op->committed = false;
  op->edges_only = op->reading = false;
  op->tries = 0;
  op->used_ios = 0;
  op->first = request.offset / block_bytes;
  op->last = (request.offset + std::max<std::uint64_t>(request.length, 1) - 1) / block_bytes;
  op->head_partial = request.offset % block_bytes != 0;
  op->tail_partial = (request.offset + request.length) % block_bytes != 0;
  op->segments.clear();
  op->runs.clear();
  op->hashes.clear();
  return *op;
}

void ChainChannel::finish(ChainOp& op) {
  IoRequest& request = *op.request;
  if (op.reading) chain_.end_read(op.epoch);
  const int error = op.error;
  op.next_free = free_;
  free_ = &op;
  request.complete(request, error);
}

void ChainChannel::submit(IoRequest& request) {
  if (const int error = refusal(chain_.geometry(), request); error != 0)
    return request.complete(request, error);
  if (request.op == IoOp::flush) {
    if (chain_.options().read_only) return request.complete(request, 0);
    return flush(take_op(request));
  }
  // Space for later cannot be promised by a thin file.
  if (request.op == IoOp::allocate) return request.complete(request, EOPNOTSUPP);
  if (request.length == 0) return request.complete(request, 0);
  ChainOp& op = take_op(request);
  if (request.op != IoOp::read) return begin_change(op);
  if (!op.partial() && request.buffer_count == 1) {
    op.data = static_cast<std::byte*>(request.buffers[0].iov_base);
  } else {
    op.bounce = AlignedBuffer((op.last - op.first + 1) * block_bytes);
    op.data = op.bounce.data();
  }
  read(op);
}

// --- pieces ---

IoChannel* ChainChannel::channel_of(std::uint32_t layer) {
  if (layer >= channels_.size()) channels_.resize(layer + 1);
  auto& channel = channels_[layer];
  if (!channel) {
    auto opened = chain_.layer(layer).store().open_channel(loop_);
    if (!opened) {
      log().error("{}", opened.error().message);
      return nullptr;
    }
    channel = std::move(*opened);
  }
  return channel.get();
}

IoChannel* ChainChannel::base_channel() {
  if (!base_channel_) {
    auto opened = chain_.base()->open_channel(loop_);
    if (!opened) {
      log().error("{}", opened.error().message);
      return nullptr;
    }
    base_channel_ = std::move(*opened);
  }
  return base_channel_.get();
}

void ChainChannel::add_piece(ChainOp& op, IoOp kind, IoChannel& channel, std::uint64_t offset,
                             std::byte* data, std::uint64_t length) {
  if (op.used_ios == op.ios.size()) {
    op.ios.push_back(std::make_unique<Piece>());
    op.ios.back()->owner = &op;
  }
  Piece& piece = *op.ios[op.used_ios++];
  piece.op = kind;
  piece.offset = offset;
  piece.length = length;
  piece.vector = {data, length};
  piece.buffers = &piece.vector;
  piece.buffer_count = 1;
  piece.complete = piece_done;
  piece.holder = &channel;
}

void ChainChannel::run(ChainOp& op, void (ChainChannel::*then)(ChainOp&)) {
  const std::size_t count = std::exchange(op.used_ios, 0);
  if (count == 0 || op.error != 0) return (this->*then)(op);
  op.then = then;
  op.pending = static_cast<unsigned>(count);
  for (std::size_t i = 0; i < count; ++i) {  // the op may be gone after the last one
    Piece& piece = *op.ios[i];
    static_cast<IoChannel*>(piece.holder)->submit(piece);
  }
}

void ChainChannel::piece_done(IoRequest& io, int error) {
  ChainOp& op = *static_cast<Piece&>(io).owner;
  if (error != 0 && op.error == 0) op.error = error;
  if (--op.pending == 0) (op.channel->*op.then)(op);
}

// --- reading ---

// Where the blocks are that must be read: all of a read, the edges of a change.
void ChainChannel::look_up(ChainOp& op) {
  const auto gather = [&](std::uint64_t begin, std::uint64_t end) {
    chain_.index().for_range(begin, end, [&](const ChainPiece& piece) {
      op.pieces.push_back(piece);
      return true;
    });
  };
  for (;;) {
    op.pieces.clear();
    op.expected.clear();
    const ChainPiece* missing = nullptr;
    {
      const std::lock_guard lock(chain_.lock());
      if (!op.reading) op.epoch = chain_.begin_read();
      op.reading = true;
      if (op.request->op == IoOp::read) {
        gather(op.first, op.last + 1);
      } else {
        if (op.head_partial || (op.tail_partial && op.first == op.last))
          gather(op.first, op.first + 1);
        if (op.tail_partial && op.last != op.first) gather(op.last, op.last + 1);
      }
      if (!chain_.options().verify) return;
      for (const ChainPiece& piece : op.pieces) {
        if (piece.kind != ChainPiece::Kind::data) continue;
        const HashTable& hashes = chain_.layer(piece.layer).map().hashes();
        for (std::uint64_t i = 0; i < piece.count && !missing; ++i) {
          const auto hash = hashes.find(piece.slot + i);
          if (!hash) missing = &piece;
          op.expected.push_back(hash.value_or(0));
        }
        if (missing) break;
      }
    }
    if (!missing) return;
    auto loaded =
        chain_.layer(missing->layer).load_hashes(chain_.lock(), missing->slot, missing->count);
    if (!loaded) {
      log().error("{}", loaded.error().message);
      op.error = EIO;
      return;
    }
  }
}

void ChainChannel::read_pieces(ChainOp& op, void (ChainChannel::*then)(ChainOp&)) {
  for (const ChainPiece& piece : op.pieces) {
    std::byte* data = op.bytes_of(piece.block);
    std::uint64_t length = piece.count * block_bytes;
    if (piece.kind == ChainPiece::Kind::data) {
      IoChannel* const channel = channel_of(piece.layer);
      if (!channel) op.error = EIO;
      if (!channel) break;
      add_piece(op, IoOp::read, *channel, chain_.layer(piece.layer).data_offset(piece.slot), data,
                length);
      continue;
    }
    const std::uint64_t offset = piece.block * block_bytes;
    if (piece.kind == ChainPiece::Kind::absent && offset < chain_.base_size()) {
      const std::uint64_t there = std::min(length, chain_.base_size() - offset);
      IoChannel* const channel = base_channel();
      if (!channel) op.error = EIO;
      if (!channel) break;
      add_piece(op, IoOp::read, *channel, offset, data, there);
      data += there;
      length -= there;
    }
    std::memset(data, 0, length);
  }
  run(op, then);
}

void ChainChannel::read(ChainOp& op) {
  look_up(op);
  if (op.error != 0) return finish(op);
  read_pieces(op, &ChainChannel::read_done);
}

// 0; EAGAIN when the blocks moved meanwhile; EIO when one is damaged.
int ChainChannel::verify(ChainOp& op) {
  if (!chain_.options().verify) return 0;
  std::size_t at = 0;
  for (const ChainPiece& piece : op.pieces) {
    if (piece.kind != ChainPiece::Kind::data) continue;
    for (std::uint64_t i = 0; i < piece.count; ++i) {
      const std::uint64_t block = piece.block + i;
      if (hash_block(block, op.bytes_of(block)) == op.expected[at++]) continue;
      if (++op.tries < most_tries && moved(op)) return EAGAIN;
      const LayerFile& layer = chain_.layer(piece.layer);
      log().error("layer '{}', offset {}: block {} of the disk fails its checksum", layer.name(),
                  layer.data_offset(piece.slot + i), block);
      return EIO;
    }
  }
  return 0;
}

// Whether what was read lies elsewhere now: then its slots may have been reused.
bool ChainChannel::moved(ChainOp& op) {
  const std::lock_guard lock(chain_.lock());
  for (const ChainPiece& piece : op.pieces) {
    bool as_before = true;
    chain_.index().for_range(piece.block, piece.block + piece.count, [&](const ChainPiece& now) {
      as_before = same(now, piece);
      return false;
    });
    if (!as_before) return true;
  }
  return false;
}

void ChainChannel::read_done(ChainOp& op) {
  if (op.error == 0) op.error = verify(op);
  if (op.error == EAGAIN) {
    op.error = 0;
    return read(op);
  }
  const IoRequest& request = *op.request;
  if (op.error == 0 && op.data == op.bounce.data()) {
    const std::byte* from = op.data + (request.offset - op.first * block_bytes);
    for (unsigned i = 0; i < request.buffer_count; ++i) {
      std::memcpy(request.buffers[i].iov_base, from, request.buffers[i].iov_len);
      from += request.buffers[i].iov_len;
    }
  }
  finish(op);
}

// --- changing: lock, read what is covered in part, write, map ---

void ChainChannel::begin_change(ChainOp& op) {
  const IoRequest& request = *op.request;
  op.edges_only = request.op != IoOp::write;
  op.begin = op.first;
  op.end = op.last + 1;
  op.exclusive = op.partial() || op.edges_only;
  if (!op.edges_only && !op.partial() && request.buffer_count == 1) {
    op.data = static_cast<std::byte*>(request.buffers[0].iov_base);
  } else {
    const std::uint64_t blocks = op.edges_only ? 2 : op.last - op.first + 1;
    op.bounce = AlignedBuffer(blocks * block_bytes);
    op.data = op.bounce.data();
  }
  if (!op.partial() && !op.edges_only) gather(op);
  lock_range(op);
}

void ChainChannel::lock_range(ChainOp& op) {
  {
    const std::lock_guard lock(chain_.lock());
    if (!chain_.enter(op)) return;  // comes here again after the checkpoint
    op.in_flight = true;
    if (!chain_.range_locks().acquire(op)) return;  // change() follows when it is granted
    op.holds_lock = true;
    if (!op.partial()) op.has_slots = take_slots(op);
  }
  change(op);
}

void ChainChannel::change(ChainOp& op) {
  if (!op.partial()) return write(op);
  look_up(op);
  if (op.error != 0) return write_done(op);
  read_pieces(op, &ChainChannel::patch);
}

// The request's bytes over what was read.
void ChainChannel::patch(ChainOp& op) {
  const IoRequest& request = *op.request;
  // Nobody else changes these blocks meanwhile: what fails here is damaged.
  if (op.error == 0 && op.partial() && verify(op) != 0) op.error = EIO;
  if (op.error != 0) return write_done(op);
  if (op.edges_only) {
    const std::uint64_t end = request.offset + request.length;
    const auto clear_edge = [&](std::uint64_t block) {
      const std::uint64_t begins = block * block_bytes;
      const std::uint64_t from = std::max(begins, request.offset);
      const std::uint64_t to = std::min(begins + block_bytes, end);
      std::memset(op.bytes_of(block) + (from - begins), 0, to - from);
      op.segments.push_back({block, 1, is_zero(op.bytes_of(block))});
    };
    if (op.head_partial || (op.tail_partial && op.first == op.last)) clear_edge(op.first);
    if (op.tail_partial && op.last != op.first) clear_edge(op.last);
    return write(op);
  }
  gather(op);
  write(op);
}

// The request's bytes to where they are written from, and how each block is written.
void ChainChannel::gather(ChainOp& op) {
  const IoRequest& request = *op.request;
  if (op.data == op.bounce.data()) {
    std::byte* to = op.data + (request.offset - op.first * block_bytes);
    for (unsigned i = 0; i < request.buffer_count; ++i) {
      std::memcpy(to, request.buffers[i].iov_base, request.buffers[i].iov_len);
      to += request.buffers[i].iov_len;
    }
  }
  for (std::uint64_t block = op.first; block <= op.last; ++block) {
    const bool zero = is_zero(op.bytes_of(block));
    if (!op.segments.empty() && op.segments.back().zero == zero) {
      ++op.segments.back().count;
    } else {
      op.segments.push_back({block, 1, zero});
    }
  }
}

// Under the chain's lock. False: none are free until a commit.
bool ChainChannel::take_slots(ChainOp& op) {
  std::uint64_t wanted = 0;
  for (const Segment& segment : op.segments) wanted += segment.zero ? 0 : segment.count;
  return wanted == 0 || chain_.top().map().take(wanted, op.runs);
}

void ChainChannel::write(ChainOp& op) {
  if (!op.has_slots) {
    const std::lock_guard lock(chain_.lock());
    op.has_slots = take_slots(op);
  }
  if (!op.has_slots) {
    if (op.committed) {
      op.error = ENOSPC;
      return write_done(op);
    }
    op.committed = true;  // slots that wait for it become free
    return chain_.commit_async([&op](int error) {
      op.channel->loop_.post([&op, error] {
        op.error = error;
        if (error != 0) return op.channel->write_done(op);
        op.channel->write(op);
      });
    });
  }
  IoChannel* const channel = channel_of(chain_.top_number());
  if (!channel) op.error = EIO;
  std::size_t run_at = 0;
  std::uint64_t used = 0;  // of the run
  for (const Segment& segment : op.segments) {
    if (segment.zero || op.error != 0) continue;
    for (std::uint64_t i = 0; i < segment.count;) {
      const SlotRun& run = op.runs[run_at];
      const std::uint64_t n = std::min(segment.count - i, run.count - used);
      std::byte* const data = op.bytes_of(segment.block + i);
      for (std::uint64_t j = 0; j < n; ++j)
        op.hashes.push_back(hash_block(segment.block + i + j, data + j * block_bytes));
      add_piece(op, IoOp::write, *channel, chain_.top().data_offset(run.slot + used), data,
                n * block_bytes);
      i += n;
      used += n;
      if (used == run.count) {
        used = 0;
        ++run_at;
      }
    }
  }
  run(op, &ChainChannel::write_done);
}

// The end of every change: maps what was written (or gives it back), unlocks.
void ChainChannel::write_done(ChainOp& op) {
  bool commit_soon = false;
  {
    const std::lock_guard lock(chain_.lock());
    LayerMap& map = chain_.top().map();
    if (op.error != 0) {
      for (const SlotRun& run : op.runs) map.give_back(run);
    } else {
      std::size_t run_at = 0;
      std::uint64_t used = 0;
      const std::uint64_t* hashes = op.hashes.data();
      for (const Segment& segment : op.segments) {
        if (segment.zero) {
          chain_.clear(segment.block, segment.count);
          continue;
        }
        for (std::uint64_t i = 0; i < segment.count;) {
          const SlotRun& run = op.runs[run_at];
          const std::uint64_t n = std::min(segment.count - i, run.count - used);
          map.map(segment.block + i, {run.slot + used, n}, hashes);
          chain_.index().put_data(chain_.top_number(), segment.block + i, run.slot + used, n);
          hashes += n;
          i += n;
          used += n;
          if (used == run.count) {
            used = 0;
            ++run_at;
          }
        }
      }
      if (op.edges_only) {
        const std::uint64_t begin = op.first + (op.head_partial ? 1 : 0);
        const std::uint64_t end = op.last + (op.tail_partial ? 0 : 1);
        if (begin < end) chain_.clear(begin, end - begin);
      }
    }
    commit_soon = chain_.is_commit_due();
    if (op.holds_lock) chain_.range_locks().release(op);
    op.holds_lock = false;
    if (op.in_flight) chain_.leave();
    op.in_flight = false;
  }
  if (op.error == 0 && op.request->force_unit_access) return flush(op);
  if (commit_soon) chain_.wake_committer();
  finish(op);
}

void ChainChannel::flush(ChainOp& op) {
  chain_.commit_async([&op](int error) {
    op.channel->loop_.post([&op, error] {
      op.error = error;
      op.channel->finish(op);
    });
  });
}

}  // namespace tidepool::blockdev::chain
