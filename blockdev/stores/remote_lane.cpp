#include "blockdev/stores/remote_lane.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace tidepool::blockdev {

namespace {

constexpr std::uint64_t most_status = std::uint64_t{1} << 31;  // bytes asked for at once
constexpr std::chrono::milliseconds pause{100};                // before asking again

bool is_change(IoOp op) { return op != IoOp::read && op != IoOp::flush; }

// Calls `each` with the caller's memory for [from, from + length) of a request.
template <class Each>
void for_memory(const IoRequest& request, std::uint64_t from, std::uint64_t length, Each&& each) {
  for (unsigned i = 0; i < request.buffer_count && length > 0; ++i) {
    const iovec& buffer = request.buffers[i];
    if (from >= buffer.iov_len) {
      from -= buffer.iov_len;
      continue;
    }
    const auto part = std::min<std::uint64_t>(buffer.iov_len - from, length);
    each(static_cast<std::byte*>(buffer.iov_base) + from, part);
    length -= part;
    from = 0;
  }
}

}  // namespace

struct RemoteLane::Call : RemoteAnswer {
  enum class State : std::uint8_t {
    idle,
    waiting,    // for a connection
    held,       // until own_flush_ is over
    sent,
    postponed,  // until pause_ is over
    answered,   // in answered_
  };
  RemoteLane* lane = nullptr;
  State state = State::idle;
  IoOp op = IoOp::read;  // of the command: the request's, or a flush behind it
  bool was_held = false;
  bool unstable = false;         // a part of the request is not stable yet
  IoRequest* request = nullptr;  // null: own_flush_
  StatusRequest* status = nullptr;
  EventLoop* home = nullptr;
  std::uint64_t progress = 0, piece = 0;  // bytes done, bytes of the command
  UnflushedLog::Sync sync;                // of a flush or a stable change that is under way
  std::byte* data = nullptr;              // of the piece
  std::unique_ptr<std::byte[]> bounce;  // or null: the caller's
};

struct RemoteLane::Pause : AdoptableOperation {
  RemoteLane* lane = nullptr;
  __kernel_timespec length{};
};

struct RemoteLane::Wait : AdoptableOperation {
  RemoteLane* lane = nullptr;
  short events = 0;
  bool armed = false;
};

RemoteLane::RemoteLane(EventLoop& loop, RemoteSession& session)
    : loop_(loop),
      session_(session),
      seat_(std::make_shared<RemoteSession::Seat>(
          loop, [this](const RemoteSession::Grant& grant) { granted(grant); })) {}

RemoteLane::~RemoteLane() {
  session_.leave(seat_);
  seat_->granted = nullptr;
  drop(readable_);
  drop(writable_);
  if (pause_) loop_.adopt(std::move(pause_));
}

// --- requests ---

RemoteLane::Call& RemoteLane::take_call() {
  if (idle_.empty()) {
    calls_.push_back(std::make_unique<Call>());
    idle_.push_back(calls_.back().get());
  }
  Call& call = *idle_.back();
  idle_.pop_back();
  call = Call();
  call.lane = this;
  return call;
}

void RemoteLane::begin(Call& call, IoRequest& request, EventLoop& home) {
  call.request = &request;
  call.op = request.op;
  call.home = &home;
  if (is_change(call.op)) session_.change_begins(&call, request);
  send(call);
  pump();
}

void RemoteLane::submit(IoRequest& request, EventLoop& home) { begin(take_call(), request, home); }

void RemoteLane::submit(StatusRequest& request, EventLoop& home) {
  Call& call = take_call();
  call.status = &request;
  begin(call, request, home);
}

void RemoteLane::wait_for_connection(Call& call) {
  call.state = Call::State::waiting;
  if (link_ || std::exchange(wanting_, true)) return;  // pump() drops a lost one first
  session_.want(seat_);
}

void RemoteLane::send(Call& call) {
  const WritePermit permit = session_.permit();
  if (permit == WritePermit::never) session_.forbidden();
  if (const int failed = session_.failure(); failed != 0) return finish(call, failed);
  if (!link_ || lost_) return wait_for_connection(call);
  // Reads, too: sending one would take along what the socket did not take before.
  if (permit != WritePermit::yes) return ask_later(call);
  if (is_change(call.op) && !call.was_held && session_.wants_flush()) return hold(call);
  if (call.op == IoOp::flush) {
    if (call.request != nullptr) {
      if (const int owed = session_.take_flush_error(); owed != 0) return finish(call, owed);
    }
    const auto begun = session_.begin_flush(generation_);
    if (begun.error != 0) return finish(call, begun.error);
    if (!begun.sync) {
      lost_ = true;
      why_ = "what is unflushed must be sent on another one";
      return wait_for_connection(call);
    }
    call.sync = *begun.sync;
  } else {
    call.sync = {};
    if (is_stable_change(call)) call.sync = session_.begin_sync(generation_);
  }
  call.state = Call::State::sent;
  const int error = send_piece(call);
  if (error == 0 || call.state != Call::State::sent) return;
  if (link_->is_dead()) {
    lost_ = true;
    why_ = link_->failure();
    return wait_for_connection(call);
  }
  call.state = Call::State::answered;
  static_cast<RemoteAnswer&>(call) = {.error = error};
  answered_.push_back(&call);
}

// What the server is told to make stable before it answers.
bool RemoteLane::is_stable_change(const Call& call) const {
  return is_change(call.op) && call.request->force_unit_access && session_.facts().can_fua;
}

int RemoteLane::send_piece(Call& call) {
  static_cast<RemoteAnswer&>(call) = {.answered = answered};
  if (call.op == IoOp::flush) return link_->send({.op = IoOp::flush}, call);
  const IoRequest& request = *call.request;
  const std::uint64_t most = call.status != nullptr ? most_status : link_->most_of(call.op);
  call.piece = std::min(request.length - call.progress, most);
  RemoteCommand command{
      .op = call.op,
      .force_unit_access = is_stable_change(call),
      .offset = request.offset + call.progress,
      .length = call.piece};
  if (call.status != nullptr) {
    call.status->extents.clear();
    command.extents = &call.status->extents;
  } else if (call.op == IoOp::read || call.op == IoOp::write) {
    command.data = piece_data(call);
  }
  return link_->send(command, call);
}

void* RemoteLane::piece_data(Call& call) {
  call.bounce.reset();
  call.data = nullptr;
  for_memory(*call.request, call.progress, call.piece, [&](std::byte* data, std::uint64_t length) {
    if (length == call.piece) call.data = data;
  });
  if (call.data != nullptr) return call.data;
  call.bounce.reset(new std::byte[call.piece]);
  call.data = call.bounce.get();
  if (call.op == IoOp::write) {
    std::byte* to = call.data;
    for_memory(*call.request, call.progress, call.piece,
               [&](const std::byte* data, std::uint64_t length) {
                 std::memcpy(to, data, length);
                 to += length;
               });
  }
  return call.data;
}

// Too much is not flushed: a flush of ours goes first.
void RemoteLane::hold(Call& call) {
  call.state = Call::State::held;
  call.was_held = true;
  if (own_flush_ != nullptr) return;
  own_flush_ = &take_call();
  own_flush_->op = IoOp::flush;
  send(*own_flush_);
}

// --- answers ---

void RemoteLane::answered(RemoteAnswer& self) {
  Call& call = static_cast<Call&>(self);
  if (call.state != Call::State::sent) return;  // its connection was given up
  call.state = Call::State::answered;
  call.lane->answered_.push_back(&call);
}

// Whether the answer is of the server that there is now.
bool RemoteLane::counts(Call& call) {
  if (call.error != 0 || call.later) return session_.is_current(generation_);
  if (call.op == IoOp::flush) return session_.flushed(generation_, call.server, call.sync);
  if (call.op == IoOp::read) return session_.is_current(generation_);
  std::span<const std::byte> data;
  if (call.op == IoOp::write) data = {call.data, call.length};
  const std::uint64_t offset = call.request->offset + call.progress;
  if (!session_.record(generation_, call, call.op, offset, data)) return false;
  if (call.sync.number != 0) session_.end_sync(generation_, call.sync);
  return true;
}

void RemoteLane::settle(Call& call) {
  if (call.gone || link_->is_dead() || !counts(call)) {
    if (!lost_) why_ = call.gone ? link_->failure() : "it is not to the same server any more";
    lost_ = true;
    return wait_for_connection(call);
  }
  if (call.later) {
    if (call.sync.number != 0) session_.end_sync(generation_, call.sync);
    return ask_later(call);
  }
  if (call.error != 0) {
    if (call.sync.number != 0 && session_.sync_failed(generation_, call.sync)) {
      lost_ = true;
      why_ = "the server could not store what it had";
    }
    return finish(call, call.error);
  }
  go_on(call);
}

void RemoteLane::go_on(Call& call) {
  if (call.op == IoOp::flush || call.status != nullptr) return finish(call, 0);
  const IoRequest& request = *call.request;
  if (call.length == 0) return finish(call, EIO);
  if (call.op == IoOp::read && call.bounce) {
    const std::byte* from = call.data;
    for_memory(request, call.progress, call.length, [&](std::byte* data, std::uint64_t length) {
      std::memcpy(data, from, length);
      from += length;
    });
  }
  call.progress += call.length;
  call.was_held = false;
  call.unstable = call.unstable || !call.stable;
  if (call.progress < request.length) return send(call);
  const bool flush_behind = request.force_unit_access && is_change(call.op) && call.unstable &&
                            session_.flushes();
  if (!flush_behind) return finish(call, 0);
  call.op = IoOp::flush;
  send(call);
}

void RemoteLane::ask_later(Call& call) {
  call.state = Call::State::postponed;
  if (pause_) return;
  pause_ = std::make_unique<Pause>();
  pause_->lane = this;
  pause_->length.tv_nsec = std::chrono::nanoseconds(pause).count();
  pause_->on_complete = [](Operation& self, int, unsigned) {
    static_cast<Pause&>(self).lane->ask_again();
  };
  io_uring_prep_timeout(loop_.prepare(*pause_), &pause_->length, 0, 0);
}

void RemoteLane::ask_again() {
  pause_.reset();
  for (std::size_t i = 0; i < calls_.size(); ++i) {
    if (calls_[i]->state == Call::State::postponed) send(*calls_[i]);
  }
  pump();
}

void RemoteLane::finish(Call& call, int error) {
  IoRequest* const request = call.request;
  EventLoop* const home = call.home;
  if (request != nullptr && is_change(request->op))
    session_.change_ended(&call, *request, error == 0);
  call.state = Call::State::idle;
  call.bounce.reset();
  idle_.push_back(&call);
  if (request == nullptr) return flushed_for_ourselves(error);
  if (home == &loop_) return request->complete(*request, error);
  home->post([request, error] { request->complete(*request, error); });
}

void RemoteLane::flushed_for_ourselves(int error) {
  own_flush_ = nullptr;
  if (error != 0) session_.owe_flush_error(error);
  for (std::size_t i = 0; i < calls_.size(); ++i) {
    Call& call = *calls_[i];
    if (call.state != Call::State::held) continue;
    if (error != 0) {
      finish(call, error);
    } else {
      send(call);
    }
  }
}

// --- the connection ---

void RemoteLane::granted(const RemoteSession::Grant& grant) {
  wanting_ = false;
  if (grant.error == 0 && session_.is_current(grant.generation)) {
    link_ = grant.link;
    generation_ = grant.generation;
    lost_ = false;
  }
  // Those that still have no connection ask for one, or fail for good.
  for (std::size_t i = 0; i < calls_.size(); ++i) {
    if (calls_[i]->state == Call::State::waiting) send(*calls_[i]);
  }
  pump();
}

void RemoteLane::pump() {
  if (pumping_) return;
  pumping_ = true;
  for (;;) {
    if (!answered_.empty()) {
      Call& call = *answered_.back();
      answered_.pop_back();
      settle(call);
    } else if (link_ && (lost_ || link_->is_dead())) {
      lose();
    } else {
      break;
    }
  }
  pumping_ = false;
  arm();
}

void RemoteLane::lose() {
  session_.lost(generation_, why_.empty() ? "the server closed it" : why_);
  why_.clear();
  answered_.clear();
  // Before the link goes, so that what it still says of them is not heard.
  for (auto& call : calls_) {
    if (call->state == Call::State::sent || call->state == Call::State::answered)
      call->state = Call::State::waiting;
  }
  drop(readable_);
  drop(writable_);
  link_.reset();
  lost_ = false;
  if (!std::exchange(wanting_, true)) session_.want(seat_);
}

void RemoteLane::arm() {
  if (!link_) return;
  const short events = link_->awaited();
  if ((events & POLLIN) != 0) arm(readable_, POLLIN);
  if ((events & POLLOUT) != 0) arm(writable_, POLLOUT);
}

void RemoteLane::arm(std::unique_ptr<Wait>& wait, short events) {
  if (!wait) {
    wait = std::make_unique<Wait>();
    wait->lane = this;
    wait->events = events;
    wait->on_complete = [](Operation& self, int, unsigned) {
      auto& ended = static_cast<Wait&>(self);
      ended.armed = false;
      ended.lane->ready(ended.events);
    };
  }
  if (std::exchange(wait->armed, true)) return;
  io_uring_prep_poll_add(loop_.prepare(*wait), link_->descriptor(),
                         static_cast<unsigned>(events));
}

// The kernel may still have it: then it ends with the socket.
void RemoteLane::drop(std::unique_ptr<Wait>& wait) {
  if (wait && wait->armed) loop_.adopt(std::move(wait));
  wait.reset();
}

void RemoteLane::ready(short events) {
  // What the socket did not take at once was permitted then: it must not leave now.
  if ((events & POLLOUT) != 0 && session_.permit() != WritePermit::yes) {
    why_ = "its time to write is over";
    lost_ = true;
  } else if (!link_->go_on(static_cast<short>(events & link_->awaited()))) {
    why_ = link_->failure();
    lost_ = true;
  }
  pump();
}

}  // namespace tidepool::blockdev
