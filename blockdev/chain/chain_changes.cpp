// Changing: lock, read what is covered in part, write, map.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "blockdev/chain/chain_channel.h"
#include "blockdev/chain/chain_op.h"

namespace tidepool::blockdev::chain {

namespace {

bool is_zero(const std::byte* data) {
  std::uint64_t first = 0;
  std::memcpy(&first, data, sizeof first);
  return first == 0 && std::memcmp(data, data + sizeof first, block_bytes - sizeof first) == 0;
}

}  // namespace

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

}  // namespace tidepool::blockdev::chain
