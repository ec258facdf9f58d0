#include "blockdev/chain/store_copy.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "base/checked.h"
#include "blockdev/sync_channel.h"

namespace tidepool::blockdev::chain {

namespace {

constexpr std::uint64_t piece_bytes = std::uint64_t{1} << 20;
constexpr unsigned pieces_at_once = 4;  // of each thread
constexpr unsigned most_threads = 4;
constexpr std::uint64_t flushed_at_once = std::uint64_t{64} << 20;
constexpr std::uint64_t located_at_once = std::uint64_t{1} << 30;  // bytes

struct Span {
  std::uint64_t offset = 0, length = 0;
};

// What is to be copied, handed out piece by piece; and how it went. Any thread.
class Work {
 public:
  Work(BlockStore& from, std::uint64_t unit, Progress& progress)
      : from_(from), size_(from.geometry().size), unit_(unit), progress_(progress) {}

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

  // Nothing: there is no more, or something failed.
  std::optional<Span> next() {
    const std::lock_guard lock(mutex_);
    look_ahead();
    if (error_ || ahead_.empty()) return std::nullopt;
    Span& span = ahead_.front();
    const Span piece{span.offset, std::min(piece_bytes, span.length)};
    span.offset += piece.length;
    span.length -= piece.length;
    if (span.length == 0) ahead_.pop_front();
    return piece;
  }

  // So much was written; whether it is time that someone flushes: else the device would
  // have nothing to do until the end, and all at once then.
  bool is_flush_due(std::uint64_t written) {
    const std::uint64_t before = written_.fetch_add(written);
    return before / flushed_at_once != (before + written) / flushed_at_once;
  }
  void done(const Span& piece) {
    progress_.done.fetch_add(piece.length);
    if (auto r = progress_.go_on(); !r) failed(r.error());
  }
  void failed(Error error) {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::move(error);
  }
  Result<> result() {
    const std::lock_guard lock(mutex_);
    if (error_) return std::unexpected(*error_);
    return {};
  }

 private:
  // The next spans of data, in whole units; none at the end.
  void look_ahead() {
    while (ahead_.empty() && located_ < size_ && !error_) {
      const std::uint64_t length = std::min(located_at_once, size_ - located_);
      auto located = from_.locate(located_, length, [&](const Range& range) {
        if (range.kind != RangeKind::data) return true;
        const std::uint64_t begin = std::max(handed_to_, round_down(range.offset, unit_));
        const std::uint64_t end = std::min(size_, round_up(range.offset + range.length, unit_));
        if (begin >= end) return true;
        if (!ahead_.empty() && ahead_.back().offset + ahead_.back().length == begin) {
          ahead_.back().length += end - begin;
        } else {
          ahead_.push_back({begin, end - begin});
        }
        handed_to_ = end;
        return true;
      });
      if (!located) error_ = located.error();
      located_ += length;
    }
  }

  BlockStore& from_;
  const std::uint64_t size_;
  const std::uint64_t unit_;
  Progress& progress_;
  std::atomic<std::uint64_t> written_{0};  // bytes
  std::mutex mutex_;  // guards all below; held while the source is asked where its data is
  std::deque<Span> ahead_;
  std::uint64_t located_ = 0, handed_to_ = 0;  // bytes
  std::optional<Error> error_;
};

// Copies pieces on one thread, some at a time.
class Copier {
 public:
  Copier(BlockStore& from, BlockStore& to, Work& work) : from_(from), to_(to), work_(work) {}

  void run() {
    if (auto r = copy(); !r) work_.failed(r.error());
  }

 private:
  struct Piece : IoRequest {
    Copier* owner = nullptr;
    AlignedBuffer buffer;
    iovec vector{};
  };

  Result<> copy() {
    auto loop = EventLoop::create({.entries = 64, .may_block = true});
    if (!loop) return std::unexpected(loop.error());
    auto source = from_.open_channel(**loop);
    if (!source) return std::unexpected(source.error());
    auto target = to_.open_channel(**loop);
    if (!target) return std::unexpected(target.error());
    source_ = source->get();
    target_ = target->get();
    std::vector<std::unique_ptr<Piece>> pieces;
    for (unsigned i = 0; i < pieces_at_once; ++i) {
      auto& piece = pieces.emplace_back(std::make_unique<Piece>());
      piece->owner = this;
      piece->buffer = AlignedBuffer(piece_bytes);
      idle_.push_back(piece.get());
    }
    for (;;) {
      while (!idle_.empty() && begin(*idle_.back()))
        ;
      if (busy_ == 0) break;
      if (auto handled = (*loop)->poll(true); !handled) {
        // Requests are in the kernel's hands: their memory cannot be given up.
        std::abort();
      }
    }
    return {};
  }

  // False: there is nothing more to begin.
  bool begin(Piece& piece) {
    const auto span = work_.next();
    if (!span) return false;
    idle_.pop_back();
    piece.op = IoOp::read;
    piece.offset = span->offset;
    piece.length = span->length;
    piece.vector = {piece.buffer.data(), span->length};
    piece.buffers = &piece.vector;
    piece.buffer_count = 1;
    piece.complete = read_done;
    ++busy_;
    source_->submit(piece);
    return true;
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
    if (error != 0 || !piece.owner->work_.is_flush_due(piece.length))
      return piece.owner->ended(piece, error, piece.owner->to_, "write");
    piece.op = IoOp::flush;
    piece.complete = flush_done;
    piece.owner->target_->submit(piece);
  }

  static void flush_done(IoRequest& request, int error) {
    auto& piece = static_cast<Piece&>(request);
    piece.owner->ended(piece, error, piece.owner->to_, "flush");
  }

  // May be called while the piece is being submitted: what follows begins in copy().
  void ended(Piece& piece, int error, BlockStore& store, const char* what) {
    --busy_;
    idle_.push_back(&piece);
    if (error != 0) {
      return work_.failed(fail_errno(error, fmt::format("cannot {} '{}' at {}+{}", what, store.name(),
                                                        piece.offset, piece.length))
                              .error());
    }
    work_.done({piece.offset, piece.length});
  }

  BlockStore& from_;
  BlockStore& to_;
  Work& work_;
  IoChannel* source_ = nullptr;
  IoChannel* target_ = nullptr;
  std::vector<Piece*> idle_;
  unsigned busy_ = 0;
};

}  // namespace

Result<> copy_store(BlockStore& from, BlockStore& to, Progress& progress) {
  Work work(from, std::max({from.geometry().logical_block, to.geometry().logical_block, 4096U}),
            progress);
  if (auto r = work.measure(); !r) return r;
  {
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < std::clamp(std::thread::hardware_concurrency(), 1U, most_threads); ++i)
      threads.emplace_back([&] { Copier(from, to, work).run(); });
  }
  if (auto r = work.result(); !r) return r;
  auto channel = SyncChannel::open(to);
  if (!channel) return std::unexpected(channel.error());
  return (*channel)->flush();
}

}  // namespace tidepool::blockdev::chain
