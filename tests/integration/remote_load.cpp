// remote_load URI: random requests through an NBD or NFS store, against a copy in memory.
//
// The disk is cut into as many parts as there are requests in flight at once; each
// part has a stream of its own that reads, writes, zeroes, discards and flushes, and
// knows what must be there: every read is compared. At the end all is flushed, read
// and compared once more, the map too, and the oracle may be saved for another judge.
// Says "open" on stderr when the store is, "ok" at the end. Any error of the store, and any wrong byte, ends the program with status 1.
//
// --again: a write or flush that fails is none of these errors, and done again.
//
// --wait-before-close: after the requests, prints "ready" and waits for a line on
// stdin; then everything is closed, which must need no server.
#include <atomic>
#include <deque>
#include <iostream>
#include <thread>

#include "blockdev/stores/nbd_store.h"
#include "blockdev/stores/nfs_store.h"
#include "blockdev/sync_channel.h"
#include "tests/lib/judge.h"

namespace {

using namespace tidepool;
using namespace tidepool::blockdev;

struct Settings {
  std::uint64_t operations = 1000, seed = 1;
  std::string until;  // a file; empty: `operations` per stream
  std::uint64_t most = 256 << 10;
  unsigned flush_one_in = 20;
  bool again = false;
};

// Without an orderly exit: other threads are still at work.
template <class... Args>
[[noreturn]] void stop_at_once(const char* format, Args... args) {
  if constexpr (sizeof...(Args) == 0)
    std::fputs(format, stderr);
  else
    std::fprintf(stderr, format, args...);
  std::fputc('\n', stderr);
  ::_exit(judge::exit_failed);
}

template <class T>
T must(Result<T> result) {
  if (!result) stop_at_once("%s", result.error().message.c_str());
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

class Stream {
 public:
  Stream(const Settings& settings, Geometry geometry, std::uint64_t begin, std::uint64_t length,
         std::uint64_t number)
      : settings_(settings),
        block_(geometry.logical_block),
        begin_(begin),
        random_(settings.seed * 1000 + number),
        oracle_(length),
        buffer_(length) {
    request_.stream = this;
    request_.complete = [](IoRequest& request, int error) {
      static_cast<Request&>(request).stream->completed(error);
    };
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  void start(IoChannel& channel, std::atomic<unsigned>& running) {
    channel_ = &channel;
    running_ = &running;
    next();
  }
  const std::vector<unsigned char>& oracle() const { return oracle_; }
  std::uint64_t begin() const { return begin_; }

 private:
  bool is_over() {
    if (settings_.until.empty()) return done_ >= settings_.operations;
    return done_ % 16 == 0 && ::access(settings_.until.c_str(), F_OK) == 0;
  }

  void next() {
    if (is_over()) {
      --*running_;
      return;
    }
    ++done_;
    const std::uint64_t blocks = oracle_.size() / block_;
    const std::uint64_t count =
        random_.size_up_to(std::min(blocks, std::max<std::uint64_t>(settings_.most / block_, 1)));
    const std::uint64_t first = random_.below(blocks - count + 1);
    offset_ = first * block_;
    const std::uint64_t length = count * block_;
    request_.force_unit_access = random_.chance(20);
    request_.op = IoOp::write;
    switch (random_.below(8)) {
      case 0: request_.op = IoOp::zero; break;
      case 1: request_.op = IoOp::discard; break;
      case 2:
      case 3: request_.op = IoOp::read; break;
      default: break;
    }
    if (random_.chance(settings_.flush_one_in)) request_.op = IoOp::flush;
    request_.offset = begin_ + offset_;
    request_.length = length;
    if (request_.op == IoOp::write) {
      judge::fill_random(random_, buffer_.data(), length);
      if (random_.chance(10)) std::fill_n(buffer_.begin(), length, 0);
    }
    cut(length);
    channel_->submit(request_);
  }

  // Into one to four buffers of any length.
  void cut(std::uint64_t length) {
    unsigned count = 0;
    std::uint64_t at = 0;
    while (at < length) {
      std::uint64_t part = length - at;
      if (count < 3 && random_.chance(3)) part = 1 + random_.below(part);
      vectors_[count++] = {buffer_.data() + at, part};
      at += part;
    }
    request_.buffers = vectors_;
    request_.buffer_count = count;
  }

  void completed(int error) {
    if (error != 0 && settings_.again && request_.op != IoOp::read)
      return channel_->submit(request_);
    if (error != 0) {
      stop_at_once("operation %d at %llu+%llu: %s", static_cast<int>(request_.op),
                 static_cast<unsigned long long>(request_.offset),
                 static_cast<unsigned long long>(request_.length), std::strerror(error));
    }
    const auto at = oracle_.begin() + static_cast<std::ptrdiff_t>(offset_);
    switch (request_.op) {
      case IoOp::read: compare(); break;
      case IoOp::write: std::copy_n(buffer_.begin(), request_.length, at); break;
      case IoOp::zero:
      case IoOp::discard: std::fill_n(at, request_.length, 0); break;
      default: break;
    }
    next();
  }

  void compare() const {
    for (std::uint64_t i = 0; i < request_.length; ++i) {
      if (buffer_[i] == oracle_[offset_ + i]) continue;
      stop_at_once("offset %llu is %d, not %d, after %llu operations",
                 static_cast<unsigned long long>(request_.offset + i), buffer_[i],
                 oracle_[offset_ + i], static_cast<unsigned long long>(done_));
    }
  }

  struct Request : IoRequest {
    Stream* stream = nullptr;
  } request_;
  const Settings& settings_;
  const std::uint64_t block_, begin_;
  judge::Random random_;
  std::vector<unsigned char> oracle_, buffer_;
  iovec vectors_[4];
  IoChannel* channel_ = nullptr;
  std::atomic<unsigned>* running_ = nullptr;
  std::uint64_t offset_ = 0, done_ = 0;
};

void run_thread(BlockStore& store, std::deque<Stream>& streams, std::size_t from, std::size_t to) {
  const auto loop = must(EventLoop::create({}));
  const auto channel = must(store.open_channel(*loop));
  std::atomic<unsigned> running = static_cast<unsigned>(to - from);
  for (std::size_t i = from; i < to; ++i) streams[i].start(*channel, running);
  while (running > 0) must(loop->poll(true));
}

void compare_all(BlockStore& store, const std::deque<Stream>& streams) {
  const auto channel = must(SyncChannel::open(store));
  for (const Stream& stream : streams) {
    const auto& oracle = stream.oracle();
    AlignedBuffer got(oracle.size());
    must(channel->read(stream.begin(), got.span()));
    if (std::memcmp(got.data(), oracle.data(), oracle.size()) != 0)
      stop_at_once("the part at %llu differs", static_cast<unsigned long long>(stream.begin()));
    std::uint64_t at = stream.begin();
    must(store.locate(at, oracle.size(), [&](const Range& range) {
      if (range.offset != at || range.length == 0) stop_at_once("the map has a gap");
      at += range.length;
      const unsigned char* data = oracle.data() + (range.offset - stream.begin());
      const bool zero = std::all_of(data, data + range.length, [](auto byte) { return byte == 0; });
      if (range.kind != RangeKind::data && !zero) stop_at_once("the map has data as a hole");
      return true;
    }));
    if (at != stream.begin() + oracle.size()) stop_at_once("the map ends early");
  }
}

}  // namespace

int main(int argc, char** argv) {
  const judge::Options options(
      argc, argv,
      {"ops", "until", "seed", "threads", "depth", "bytes", "most", "flush-one-in", "keep",
       "give-up", "save"},
      {"forget-unflushed", "trust-after-failure", "again", "wait-before-close"},
      "usage: remote_load URI [--ops N | --until FILE] [--seed N] [--threads N] [--depth N]\n"
      "       [--bytes SIZE] [--most SIZE] [--flush-one-in N] [--keep SIZE] [--give-up SECONDS]\n"
      "       [--save FILE] [--forget-unflushed] [--trust-after-failure] [--again]\n"
      "       [--wait-before-close]");
  if (options.words.size() != 1) options.usage_error("one URI is wanted");
  Settings settings;
  settings.operations = options.number("ops", 1000);
  settings.until = options.text("until");
  settings.seed = judge::seed_of(options);
  settings.most = options.number("most", 256 << 10);
  settings.flush_one_in = static_cast<unsigned>(options.number("flush-one-in", 20));
  RemoteOptions how;
  how.give_up_after = std::chrono::seconds(options.number("give-up", 0));
  how.unflushed_limit = options.number("keep", how.unflushed_limit);
  how.forget_unflushed = options.has("forget-unflushed");
  how.trust_after_failure = options.has("trust-after-failure");
  how.sole_writer = true;
  settings.again = options.has("again");
  auto store = must(is_nfs_uri(options.words[0]) ? open_nfs_store(options.words[0], how)
                                                  : open_nbd_store(options.words[0], how));

  std::fprintf(stderr, "open\n");
  const Geometry geometry = store->geometry();
  const std::size_t threads = options.number("threads", 2), depth = options.number("depth", 4);
  const std::uint64_t bytes = std::min(options.number("bytes", geometry.size), geometry.size);
  const std::uint64_t part = bytes / (threads * depth) / geometry.logical_block * geometry.logical_block;
  if (part == 0) stop_at_once("the disk is too small");
  std::deque<Stream> streams;
  for (std::size_t i = 0; i < threads * depth; ++i)
    streams.emplace_back(settings, geometry, i * part, part, i);

  if (options.has("wait-before-close")) {
    const auto channel = must(SyncChannel::open(*store));
    AlignedBuffer data(4096);
    must(channel->write(0, data.span()));
    std::printf("ready\n");
    std::fflush(stdout);
    std::string line;
    std::getline(std::cin, line);
    return 0;
  }

  std::vector<std::thread> workers;
  for (std::size_t i = 0; i < threads; ++i)
    workers.emplace_back([&, i] { run_thread(*store, streams, i * depth, (i + 1) * depth); });
  for (auto& worker : workers) worker.join();
  {
    const auto channel = must(SyncChannel::open(*store));
    auto flushed = channel->flush();
    while (!flushed && settings.again) flushed = channel->flush();
    must(std::move(flushed));
  }
  compare_all(*store, streams);
  if (options.has("save")) {
    const judge::Fd file(
        open(options.text("save").c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!file.valid() || ftruncate(file.get(), static_cast<off_t>(geometry.size)) < 0)
      stop_at_once("cannot make the copy: %s", std::strerror(errno));
    for (const Stream& stream : streams) {
      const auto& oracle = stream.oracle();
      if (pwrite(file.get(), oracle.data(), oracle.size(), static_cast<off_t>(stream.begin())) !=
          static_cast<ssize_t>(oracle.size()))
        stop_at_once("cannot write the copy: %s", std::strerror(errno));
    }
  }
  std::printf("ok\n");
  return 0;
}
