#include "blockdev/stores/nbd_lane.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace tidepool::blockdev {

namespace {

constexpr std::uint64_t most_status = std::uint64_t{1} << 31;  // bytes asked for at once

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

struct NbdLane::Call {
  enum class State : std::uint8_t {
    idle,
    waiting,   // for a connection
    held,      // until own_flush_ is over
    sent,
    answered,  // in answered_
  };
  NbdLane* lane = nullptr;
  State state = State::idle;
  IoOp op = IoOp::read;  // of the command: the request's, or a flush behind it
  bool was_held = false;
  IoRequest* request = nullptr;  // null: own_flush_
  StatusRequest* status = nullptr;
  EventLoop* home = nullptr;
  std::uint64_t progress = 0, piece = 0;  // bytes done, bytes of the command
  std::uint64_t mark = 0;                 // of a flush
  int error = 0;
  std::byte* data = nullptr;            // of the piece
  std::unique_ptr<std::byte[]> bounce;  // or null: the caller's
};

struct NbdLane::Wait : AdoptableOperation {
  NbdLane* lane = nullptr;
  short events = 0;
  bool armed = false;
};

NbdLane::NbdLane(EventLoop& loop, NbdSession& session)
    : loop_(loop),
      session_(session),
      seat_(std::make_shared<NbdSession::Seat>(
          loop, [this](const NbdSession::Grant& grant) { granted(grant); })) {}

NbdLane::~NbdLane() {
  session_.leave(seat_);
  seat_->granted = nullptr;
  drop(readable_);
  drop(writable_);
}

// --- requests ---

NbdLane::Call& NbdLane::take_call() {
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

void NbdLane::begin(Call& call, IoRequest& request, EventLoop& home) {
  call.request = &request;
  call.op = request.op;
  call.home = &home;
  send(call);
  pump();
}

void NbdLane::submit(IoRequest& request, EventLoop& home) { begin(take_call(), request, home); }

void NbdLane::submit(StatusRequest& request, EventLoop& home) {
  Call& call = take_call();
  call.status = &request;
  begin(call, request, home);
}

void NbdLane::wait_for_connection(Call& call) {
  call.state = Call::State::waiting;
  if (link_ || std::exchange(wanting_, true)) return;  // pump() drops a lost one first
  session_.want(seat_);
}

void NbdLane::send(Call& call) {
  if (const int failed = session_.failure(); failed != 0) return finish(call, failed);
  if (!link_ || lost_) return wait_for_connection(call);
  if (is_change(call.op) && !call.was_held && session_.wants_flush()) return hold(call);
  if (call.op == IoOp::flush) {
    if (call.request != nullptr) {
      if (const int owed = session_.take_flush_error(); owed != 0) return finish(call, owed);
    }
    const auto mark = session_.flush_mark(generation_);
    if (!mark) {
      lost_ = true;
      why_ = "another connection was";
      return wait_for_connection(call);
    }
    call.mark = *mark;
  }
  call.state = Call::State::sent;
  const int error = send_piece(call);
  if (error == 0 || call.state != Call::State::sent) return;
  if (link_->is_dead()) {
    lost_ = true;
    why_ = NbdLink::failure();
    return wait_for_connection(call);
  }
  call.state = Call::State::answered;
  call.error = error;
  answered_.push_back(&call);
}

int NbdLane::send_piece(Call& call) {
  const nbd_completion_callback done{answered, &call, nullptr};
  if (call.op == IoOp::flush) return link_->send({.op = IoOp::flush}, done);
  const IoRequest& request = *call.request;
  const std::uint64_t offset = request.offset + call.progress;
  const std::uint64_t most = call.status != nullptr ? most_status : link_->most_of(call.op);
  call.piece = std::min(request.length - call.progress, most);
  if (call.status != nullptr) {
    call.status->extents.clear();
    const auto cookie = nbd_aio_block_status(link_->handle(), call.piece, offset,
                                             {extents, &call, nullptr}, done, 0);
    return cookie >= 0 ? 0 : std::max(nbd_get_errno(), 1);
  }
  return link_->send(
      {.op = call.op,
       .force_unit_access = request.force_unit_access && session_.facts().can_fua,
       .offset = offset,
       .length = call.piece,
       .data = call.op == IoOp::read || call.op == IoOp::write ? piece_data(call) : nullptr},
      done);
}

void* NbdLane::piece_data(Call& call) {
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
void NbdLane::hold(Call& call) {
  call.state = Call::State::held;
  call.was_held = true;
  if (own_flush_ != nullptr) return;
  own_flush_ = &take_call();
  own_flush_->op = IoOp::flush;
  send(*own_flush_);
}

// --- answers ---

int NbdLane::answered(void* self, int* error) {
  Call& call = *static_cast<Call*>(self);
  if (call.state != Call::State::sent) return 1;  // its connection was given up
  call.state = Call::State::answered;
  call.error = *error;
  call.lane->answered_.push_back(&call);
  return 1;
}

int NbdLane::extents(void* self, const char*, std::uint64_t, std::uint32_t* entries,
                     std::size_t count, int*) {
  auto& into = static_cast<Call*>(self)->status->extents;
  into.assign(entries, entries + count);
  return 0;
}

// Whether the answer is of the server that there is now.
bool NbdLane::counts(Call& call) {
  if (call.error != 0) return session_.is_current(generation_);
  if (call.op == IoOp::flush) return session_.flushed(generation_, call.mark);
  if (call.op == IoOp::read) return session_.is_current(generation_);
  std::span<const std::byte> data;
  if (call.op == IoOp::write) data = {call.data, call.piece};
  return session_.record(generation_, call.op, call.request->offset + call.progress, call.piece,
                         data);
}

void NbdLane::settle(Call& call) {
  const bool farewell = call.error != 0 && (link_->is_dead() || is_farewell(call.error));
  if (farewell || !counts(call)) {
    if (!lost_) why_ = farewell ? "the server ends it" : "another connection was";
    lost_ = true;
    return wait_for_connection(call);
  }
  if (call.error != 0) return finish(call, call.error);
  go_on(call);
}

void NbdLane::go_on(Call& call) {
  if (call.op == IoOp::flush || call.status != nullptr) return finish(call, 0);
  const IoRequest& request = *call.request;
  if (call.op == IoOp::read && call.bounce) {
    const std::byte* from = call.data;
    for_memory(request, call.progress, call.piece, [&](std::byte* data, std::uint64_t length) {
      std::memcpy(data, from, length);
      from += length;
    });
  }
  call.progress += call.piece;
  call.was_held = false;
  if (call.progress < request.length) return send(call);
  const bool flush_behind = request.force_unit_access && is_change(call.op) &&
                            !session_.facts().can_fua && session_.flushes();
  if (!flush_behind) return finish(call, 0);
  call.op = IoOp::flush;
  send(call);
}

void NbdLane::finish(Call& call, int error) {
  IoRequest* const request = call.request;
  EventLoop* const home = call.home;
  call.state = Call::State::idle;
  call.bounce.reset();
  idle_.push_back(&call);
  if (request == nullptr) return flushed_for_ourselves(error);
  if (home == &loop_) return request->complete(*request, error);
  home->post([request, error] { request->complete(*request, error); });
}

void NbdLane::flushed_for_ourselves(int error) {
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

void NbdLane::granted(const NbdSession::Grant& grant) {
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

void NbdLane::pump() {
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

void NbdLane::lose() {
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

void NbdLane::arm() {
  if (!link_) return;
  const unsigned direction = nbd_aio_get_direction(link_->handle());
  if ((direction & LIBNBD_AIO_DIRECTION_READ) != 0) arm(readable_, POLLIN);
  if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0) arm(writable_, POLLOUT);
}

void NbdLane::arm(std::unique_ptr<Wait>& wait, short events) {
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
  io_uring_prep_poll_add(loop_.prepare(*wait), nbd_aio_get_fd(link_->handle()),
                         static_cast<unsigned>(events));
}

// The kernel may still have it: then it ends with the socket.
void NbdLane::drop(std::unique_ptr<Wait>& wait) {
  if (wait && wait->armed) loop_.adopt(std::move(wait));
  wait.reset();
}

void NbdLane::ready(short events) {
  const unsigned direction = nbd_aio_get_direction(link_->handle());
  int result = 0;
  if (events == POLLIN && (direction & LIBNBD_AIO_DIRECTION_READ) != 0)
    result = nbd_aio_notify_read(link_->handle());
  if (events == POLLOUT && (direction & LIBNBD_AIO_DIRECTION_WRITE) != 0)
    result = nbd_aio_notify_write(link_->handle());
  if (result != 0) why_ = NbdLink::failure();
  pump();
}

}  // namespace tidepool::blockdev
