#include "blockdev/chain/store_copy.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "base/checked.h"
#include "blockdev/sync_channel.h"

namespace tidepool::blockdev::chain {

namespace {

constexpr std::uint64_t piece_bytes = std::uint64_t{1} << 20;
constexpr unsigned pieces_at_once = 8;
constexpr std::uint64_t located_at_once = std::uint64_t{1} << 30;  // bytes

class Copy {
 public:
  Copy(BlockStore& from, BlockStore& to, Progress& progress)
      : from_(from),
        to_(to),
        progress_(progress),
        size_(from.geometry().size),
        unit_(std::max({from.geometry().logical_block, to.geometry().logical_block, 4096U})) {}

  Result<> run() {
    auto loop = EventLoop::create({.entries = 64, .any_thread = true});
    if (!loop) return std::unexpected(loop.error());
    auto source = from_.open_channel(**loop);
    if (!source) return std::unexpected(source.error());
    auto target = to_.open_channel(**loop);
    if (!target) return std::unexpected(target.error());
    source_ = source->get();
    target_ = target->get();
    if (auto r = measure(); !r) return r;
    std::vector<std::unique_ptr<Piece>> pieces;
    for (unsigned i = 0; i < pieces_at_once; ++i) {
      auto& piece = pieces.emplace_back(std::make_unique<Piece>());
      piece->owner = this;
      piece->buffer = AlignedBuffer(piece_bytes);
      begin(*piece);
    }
    while (busy_ > 0) {
      if (auto handled = (*loop)->poll(true); !handled) {
        // Requests are in the kernel's hands: their memory cannot be given up.
        std::abort();
      }
    }
    if (error_) return std::unexpected(*error_);
    auto channel = SyncChannel::open(to_);
    if (!channel) return std::unexpected(channel.error());
    return (*channel)->flush();
  }

 private:
  struct Piece : IoRequest {
    Copy* owner = nullptr;
    AlignedBuffer buffer;
    iovec vector{};
  };
  struct Span {
    std::uint64_t offset = 0, length = 0;
  };

  Result<> measure() {
    std::uint64_t total = 0;
    auto located = from_.locate(0, size_, [&](const Range& range) {
      if (range.kind == RangeKind::data) total += range.length;
      return true;
    });
    progress_.done.store(0);
    progress_.total.store(total);
    return located;
  }

  // The next spans of data, in whole units; empty at the end.
  void look_ahead() {
    while (ahead_.empty() && located_ < size_ && !error_) {
      const std::uint64_t length = std::min(located_at_once, size_ - located_);
      auto located = from_.locate(located_, length, [&](const Range& range) {
        if (range.kind != RangeKind::data) return true;
        const std::uint64_t begin = std::max(copied_to_, round_down(range.offset, unit_));
        const std::uint64_t end = std::min(size_, round_up(range.offset + range.length, unit_));
        if (begin >= end) return true;
        if (!ahead_.empty() && ahead_.back().offset + ahead_.back().length == begin) {
          ahead_.back().length += end - begin;
        } else {
          ahead_.push_back({begin, end - begin});
        }
        copied_to_ = end;
        return true;
      });
      if (!located) error_ = located.error();
      located_ += length;
    }
  }

  void begin(Piece& piece) {
    look_ahead();
    if (error_ || ahead_.empty()) return;
    Span& span = ahead_.front();
    const std::uint64_t length = std::min(piece_bytes, span.length);
    piece.op = IoOp::read;
    piece.offset = span.offset;
    piece.length = length;
    piece.vector = {piece.buffer.data(), length};
    piece.buffers = &piece.vector;
    piece.buffer_count = 1;
    piece.complete = read_done;
    span.offset += length;
    span.length -= length;
    if (span.length == 0) ahead_.pop_front();
    ++busy_;
    source_->submit(piece);
  }

  static void read_done(IoRequest& request, int error) {
    auto& piece = static_cast<Piece&>(request);
    if (error != 0) return piece.owner->ended(piece, error, piece.owner->from_, "read");
    piece.op = IoOp::write;
    piece.complete = write_done;
    piece.owner->target_->submit(piece);
  }

  static void write_done(IoRequest& request, int error) {
    auto& piece = static_cast<Piece&>(request);
    piece.owner->ended(piece, error, piece.owner->to_, "write");
  }

  void ended(Piece& piece, int error, BlockStore& store, const char* what) {
    --busy_;
    if (error != 0) {
      if (!error_) {
        error_ = fail_errno(error, fmt::format("cannot {} '{}' at {}+{}", what, store.name(),
                                               piece.offset, piece.length))
                     .error();
      }
      return;
    }
    progress_.done.fetch_add(piece.length);
    if (auto r = progress_.go_on(); !r && !error_) error_ = r.error();
    begin(piece);
  }

  BlockStore& from_;
  BlockStore& to_;
  Progress& progress_;
  const std::uint64_t size_;
  const std::uint64_t unit_;
  IoChannel* source_ = nullptr;
  IoChannel* target_ = nullptr;
  std::deque<Span> ahead_;
  std::uint64_t located_ = 0, copied_to_ = 0;  // bytes
  unsigned busy_ = 0;
  std::optional<Error> error_;
};

}  // namespace

Result<> copy_store(BlockStore& from, BlockStore& to, Progress& progress) {
  return Copy(from, to, progress).run();
}

}  // namespace tidepool::blockdev::chain
