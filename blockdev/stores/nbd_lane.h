// Requests over one NBD connection at a time, on one event loop.
//
// A request is carried out piece by piece, each within the server's limits and in one
// buffer: what spans several of the caller's is copied. What is not answered when the
// connection ends is sent again on the next one; until there is one, requests wait.
//
// Memory: one Call per request in flight, kept for the next ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "blockdev/block_store.h"
#include "blockdev/stores/nbd_session.h"

namespace tidepool::blockdev {

// A question for the block status of at most what the protocol can ask for at once
// (4 GiB): an IoRequest with offset and length, the rest is the answer.
struct StatusRequest : IoRequest {
  // Length in bytes and flags (1: hole, 2: reads as zeros), alternating; the last may
  // reach beyond the range.
  std::vector<std::uint32_t> extents;
};

class NbdLane {
 public:
  // Both outlive the lane. Requests complete on the thread of the loop that is named
  // with them. Loop thread only, or while the loop does not run; not destroyed from
  // within a completion.
  NbdLane(EventLoop& loop, NbdSession& session);
  ~NbdLane();
  NbdLane(const NbdLane&) = delete;
  NbdLane& operator=(const NbdLane&) = delete;

  // The waist's rules have been checked; no allocate, no length of 0 (but a flush).
  void submit(IoRequest& request, EventLoop& home);
  void submit(StatusRequest& request, EventLoop& home);

 private:
  struct Call;
  struct Wait;

  Call& take_call();
  void begin(Call& call, IoRequest& request, EventLoop& home);
  void send(Call& call);
  int send_piece(Call& call);
  void* piece_data(Call& call);
  void hold(Call& call);
  void wait_for_connection(Call& call);

  static int answered(void* self, int* error);
  static int extents(void* self, const char* context, std::uint64_t offset,
                     std::uint32_t* entries, std::size_t count, int* error);
  void settle(Call& call);
  bool counts(Call& call);
  void go_on(Call& call);
  void finish(Call& call, int error);
  void flushed_for_ourselves(int error);

  void granted(const NbdSession::Grant& grant);
  void pump();
  void lose();
  void arm();
  void arm(std::unique_ptr<Wait>& wait, short events);
  void drop(std::unique_ptr<Wait>& wait);
  void ready(short events);

  EventLoop& loop_;
  NbdSession& session_;
  const std::shared_ptr<NbdSession::Seat> seat_;
  bool wanting_ = false;
  std::shared_ptr<NbdLink> link_;  // null: not connected
  std::uint64_t generation_ = 0;   // of link_
  bool lost_ = false;              // link_ is of no use any more
  std::string why_;                // it was lost
  bool pumping_ = false;
  std::unique_ptr<Wait> readable_, writable_;

  std::vector<std::unique_ptr<Call>> calls_;
  std::vector<Call*> idle_;
  std::vector<Call*> answered_;  // not settled yet
  Call* own_flush_ = nullptr;    // makes room for the calls that are held
};

}  // namespace tidepool::blockdev
