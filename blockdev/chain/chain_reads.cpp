// Reading: look up where the blocks lie, read them there, verify; once more when they
// moved meanwhile. A change reads so what it covers in part.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "blockdev/chain/chain_channel.h"
#include "blockdev/chain/chain_op.h"

namespace tidepool::blockdev::chain {

namespace {

// How often a read looks again when its block moved meanwhile.
constexpr unsigned most_tries = 100;

bool same(const ChainPiece& a, const ChainPiece& b) {
  return a.kind == b.kind && a.block == b.block && a.count == b.count && a.layer == b.layer &&
         a.slot == b.slot;
}

}  // namespace

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

}  // namespace tidepool::blockdev::chain
