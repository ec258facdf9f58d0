// Requests over one connection to a server at a time, on one event loop.
//
// A request is carried out piece by piece, each within the server's limits and in one
// buffer: what spans several of the caller's is copied. What is not answered when the
// connection ends is sent again on the next one; until there is one, requests wait. What
// the server wants to be asked again later is asked again a little later, without end.
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
#include "blockdev/stores/remote_session.h"

namespace tidepool::blockdev {

// A question for the block status of at most what a protocol can ask for at once
// (4 GiB): an IoRequest with offset and length, the rest is the answer.
struct StatusRequest : IoRequest {
  std::vector<std::uint32_t> extents;  // RemoteCommand::extents
};

class RemoteLane {
 public:
  // Both outlive the lane. Requests complete on the thread of the loop that is named
  // with them. Loop thread only, or while the loop does not run; not destroyed from
  // within a completion.
  RemoteLane(EventLoop& loop, RemoteSession& session);
  ~RemoteLane();
  RemoteLane(const RemoteLane&) = delete;
  RemoteLane& operator=(const RemoteLane&) = delete;

  // The waist's rules have been checked; no allocate, no length of 0 (but a flush).
  void submit(IoRequest& request, EventLoop& home);
  void submit(StatusRequest& request, EventLoop& home);

 private:
  struct Call;
  struct Wait;
  struct Pause;

  Call& take_call();
  void begin(Call& call, IoRequest& request, EventLoop& home);
  void send(Call& call);
  bool is_stable_change(const Call& call) const;
  int send_piece(Call& call);
  void* piece_data(Call& call);
  void hold(Call& call);
  void wait_for_connection(Call& call);
  void ask_later(Call& call);
  void ask_again();

  static void answered(RemoteAnswer& self);
  void settle(Call& call);
  bool counts(Call& call);
  void go_on(Call& call);
  void finish(Call& call, int error);
  void flushed_for_ourselves(int error);

  void granted(const RemoteSession::Grant& grant);
  void pump();
  void lose();
  void arm();
  void arm(std::unique_ptr<Wait>& wait, short events);
  void drop(std::unique_ptr<Wait>& wait);
  void ready(short events);

  EventLoop& loop_;
  RemoteSession& session_;
  const std::shared_ptr<RemoteSession::Seat> seat_;
  bool wanting_ = false;
  std::shared_ptr<RemoteLink> link_;  // null: not connected
  std::uint64_t generation_ = 0;   // of link_
  bool lost_ = false;              // link_ is of no use any more
  std::string why_;                // it was lost
  bool pumping_ = false;
  std::unique_ptr<Wait> readable_, writable_;
  std::unique_ptr<Pause> pause_;  // armed while a call is to be asked again

  std::vector<std::unique_ptr<Call>> calls_;
  std::vector<Call*> idle_;
  std::vector<Call*> answered_;  // not settled yet
  Call* own_flush_ = nullptr;    // makes room for the calls that are held
};

}  // namespace tidepool::blockdev
