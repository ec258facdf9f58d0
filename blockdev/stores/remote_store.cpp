#include "blockdev/stores/remote_store.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <future>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/checked.h"
#include "base/log.h"
#include "blockdev/request_check.h"
#include "blockdev/stores/remote_lane.h"
#include "blockdev/stores/remote_session.h"

namespace tidepool::blockdev {

namespace {

constexpr std::uint64_t locate_step = std::uint64_t{1} << 30;  // bytes asked for at once
constexpr std::uint32_t is_hole = 1, reads_zero = 2;           // of base:allocation

RangeKind kind_of(std::uint32_t flags) {
  if ((flags & reads_zero) == 0) return RangeKind::data;
  return (flags & is_hole) != 0 ? RangeKind::hole : RangeKind::zero;
}

Geometry geometry_of(const RemoteSession& session) {
  const RemoteDisk& facts = session.facts();
  return {.size = facts.size,
          .logical_block = facts.least_block,
          .memory_alignment = 1,
          .read_only = session.read_only(),
          .can_discard = !session.read_only() && facts.can_trim && facts.can_zero};
}

// A lane on a thread of its own, for channels that share it and for locate().
class SharedLane {
 public:
  static Result<std::unique_ptr<SharedLane>> start(RemoteSession& session) {
    auto loop = EventLoop::create({});
    if (!loop) return std::unexpected(loop.error());
    return std::unique_ptr<SharedLane>(new SharedLane(session, std::move(*loop)));
  }
  ~SharedLane() {
    loop_->stop();
    thread_.join();
  }
  SharedLane(const SharedLane&) = delete;
  SharedLane& operator=(const SharedLane&) = delete;

  EventLoop& loop() { return *loop_; }
  RemoteLane& lane() { return lane_; }  // on the loop's thread

 private:
  SharedLane(RemoteSession& session, std::unique_ptr<EventLoop> loop)
      : loop_(std::move(loop)), lane_(*loop_, session), thread_([this, &session] {
          if (auto ran = loop_->run(); !ran) {
            // What is in flight could never end.
            log().critical("'{}': {}", session.uri(), ran.error().message);
            std::abort();
          }
        }) {}

  const std::unique_ptr<EventLoop> loop_;
  RemoteLane lane_;
  std::thread thread_;
};

// Ends here what needs no server; true: the request goes on.
bool admit(const RemoteSession& session, IoRequest& request) {
  int error = refusal(geometry_of(session), request);
  if (error == 0 && request.op == IoOp::allocate) error = EOPNOTSUPP;
  const bool nothing_to_do =
      request.op == IoOp::flush ? !session.flushes() : request.length == 0;
  if (error == 0 && !nothing_to_do) return true;
  request.complete(request, error);
  return false;
}

class OwnChannel final : public IoChannel {
 public:
  OwnChannel(EventLoop& loop, RemoteSession& session)
      : loop_(loop), session_(session), lane_(loop, session) {}
  void submit(IoRequest& request) override {
    if (admit(session_, request)) lane_.submit(request, loop_);
  }

 private:
  EventLoop& loop_;
  RemoteSession& session_;
  RemoteLane lane_;
};

class SharedChannel final : public IoChannel {
 public:
  SharedChannel(EventLoop& loop, RemoteSession& session, SharedLane& shared)
      : loop_(loop), session_(session), shared_(shared) {}
  void submit(IoRequest& request) override {
    if (!admit(session_, request)) return;
    request.holder = this;
    shared_.loop().post([&request] {
      auto& self = *static_cast<SharedChannel*>(request.holder);
      self.shared_.lane().submit(request, self.loop_);
    });
  }

 private:
  EventLoop& loop_;
  RemoteSession& session_;
  SharedLane& shared_;
};

class RemoteStore final : public BlockStore {
 public:
  explicit RemoteStore(std::unique_ptr<RemoteSession> session) : session_(std::move(session)) {}

  const std::string& name() const override { return session_->uri(); }
  Geometry geometry() const override { return geometry_of(*session_); }

  Result<std::unique_ptr<IoChannel>> open_channel(EventLoop& loop) override {
    if (session_->facts().multi_conn) return std::make_unique<OwnChannel>(loop, *session_);
    auto shared = shared_lane();
    if (!shared) return std::unexpected(shared.error());
    return std::make_unique<SharedChannel>(loop, *session_, **shared);
  }

  Result<> locate(std::uint64_t offset, std::uint64_t length,
                  const std::function<bool(const Range&)>& sink) override {
    const RemoteDisk& facts = session_->facts();
    if (!range_fits(offset, length, facts.size)) {
      return fail(ErrorKind::invalid_argument, "no range {}+{} in '{}' of {} bytes", offset, length,
                  name(), facts.size);
    }
    if (!facts.has_status && session_->knows_holes()) {
      session_->each_hole(offset, offset + length, [&](auto begin, auto end, bool hole) {
        return sink({begin, end - begin, hole ? RangeKind::hole : RangeKind::data,
                     hole ? 0 : begin});
      });
      return {};
    }
    if (!facts.has_status) {
      if (length > 0) sink({offset, length, RangeKind::data, offset});
      return {};
    }
    const std::uint64_t end = offset + length;
    while (offset < end) {
      auto extents = ask(offset, end);
      if (!extents) return std::unexpected(extents.error());
      std::uint64_t at = round_down(offset, std::uint64_t{facts.least_block});
      for (std::size_t i = 0; i + 1 < extents->size() && offset < end; i += 2) {
        at = std::min(end, at + (*extents)[i]);
        if (at <= offset) continue;
        const RangeKind kind = kind_of((*extents)[i + 1]);
        const std::uint64_t leaf = kind == RangeKind::hole ? 0 : offset;
        if (!sink({offset, at - offset, kind, leaf})) return {};
        offset = at;
      }
    }
    return {};
  }

 private:
  Result<SharedLane*> shared_lane() {
    const std::lock_guard lock(mutex_);
    if (!shared_) {
      auto started = SharedLane::start(*session_);
      if (!started) return std::unexpected(started.error());
      shared_ = std::move(*started);
    }
    return shared_.get();
  }

  // The server's extents from `offset`, rounded down to its blocks, on.
  Result<std::vector<std::uint32_t>> ask(std::uint64_t offset, std::uint64_t end) {
    auto shared = shared_lane();
    if (!shared) return std::unexpected(shared.error());
    const std::uint64_t block = session_->facts().least_block;
    const std::uint64_t begin = round_down(offset, block);
    struct Question : StatusRequest {
      std::shared_ptr<std::promise<int>> answer = std::make_shared<std::promise<int>>();
    } question;
    question.offset = begin;
    question.length = std::min(round_up(end, block) - begin, locate_step);
    question.complete = [](IoRequest& self, int error) {
      // The question goes as soon as it is answered.
      const auto answer = static_cast<Question&>(self).answer;
      answer->set_value(error);
    };
    auto answer = question.answer->get_future();
    SharedLane& lane = **shared;
    lane.loop().post([&] { lane.lane().submit(question, lane.loop()); });
    if (const int error = answer.get(); error != 0)
      return fail_errno(error, fmt::format("cannot map '{}' at {}", name(), offset));
    const bool moves = question.extents.size() >= 2 && question.extents[0] > offset - begin;
    if (!moves) return fail(ErrorKind::io, "'{}' has no status for offset {}", name(), offset);
    return std::move(question.extents);
  }

  const std::unique_ptr<RemoteSession> session_;
  std::mutex mutex_;  // guards the start of shared_
  std::unique_ptr<SharedLane> shared_;
};

}  // namespace

std::shared_ptr<BlockStore> make_remote_store(std::unique_ptr<RemoteSession> session) {
  return std::make_shared<RemoteStore>(std::move(session));
}

}  // namespace tidepool::blockdev
