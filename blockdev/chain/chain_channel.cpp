#include "blockdev/chain/chain_channel.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/log.h"
#include "blockdev/chain/chain_op.h"
#include "blockdev/request_check.h"

namespace tidepool::blockdev::chain {

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
    op.ios.push_back(std::make_unique<PieceIo>());
    op.ios.back()->owner = &op;
  }
  PieceIo& piece = *op.ios[op.used_ios++];
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
    PieceIo& piece = *op.ios[i];
    static_cast<IoChannel*>(piece.holder)->submit(piece);
  }
}

void ChainChannel::piece_done(IoRequest& io, int error) {
  ChainOp& op = *static_cast<PieceIo&>(io).owner;
  if (error != 0 && op.error == 0) op.error = error;
  if (--op.pending == 0) (op.channel->*op.then)(op);
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
