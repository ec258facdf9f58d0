// What the connections of a remote store have in common: which server they talk to,
// what it has not flushed yet, and who reconnects.
//
// A generation is the time of one server process, as far as can be told. The first
// lane that loses its connection ends it. From then on nothing that an older
// connection still answers counts. The keeper, a thread of the session, connects
// again, sends what was acknowledged and never flushed, and only then hands out
// connections of the new generation; so nobody reads, writes or flushes between.
//
// More connections of one generation must be to the same server process. A protocol that
// tells which one it is (RemoteLink::server, NFS's write verifier) makes that plain, and
// shows when nothing was lost. Where it does not, and unflushed writes are kept, the keeper
// has a connection of its own, the anchor: the server that answers on it after a new
// connection was made is the one that the new connection is to.
//
// A flush that fails ends a generation, too: the server may have lost what it had not stored,
// and says so only once. All that is unflushed is sent again before another flush counts. If the
// server refuses that, the disk goes on, and each flush fails until it has taken it; but for a
// server that was restarted meanwhile without such a failure, of which nobody was told.
//
// A replay that a server has no space for is tried again like a connection. After a final
// failure (given up, another export, a replay that the server refuses otherwise) every request
// fails: what was acknowledged may be lost, and stays so.
//
// Limits: of two flushes at one time, on two connections, the one may be told that data was lost
// which the other counted as stable. It is then sent again at once, and is lost only if this
// process ends before it is stable.
// A request that was sent on a lost connection may still be carried out by a
// server that lives on, at any later time; the protocol has no means against it.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>

#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "blockdev/stores/known_holes.h"
#include "blockdev/stores/remote_link.h"
#include "blockdev/stores/remote_options.h"
#include "blockdev/stores/unflushed_log.h"

namespace tidepool::blockdev {

class RemoteSession {
 public:
  // What a lane gets: a connection, or an errno when there will never be one.
  struct Grant {
    std::shared_ptr<RemoteLink> link;
    std::uint64_t generation = 0;
    int error = 0;
  };
  // A lane's place in the session. `granted` runs on the loop's thread, and is
  // cleared there when the lane goes.
  struct Seat {
    EventLoop& loop;
    std::function<void(const Grant&)> granted;
  };

  // Blocking: connects once. Errors name the URI.
  static Result<std::unique_ptr<RemoteSession>> open(std::unique_ptr<RemoteEndpoint> endpoint,
                                                     const RemoteOptions& options);
  // All seats must have left. Waits for no server.
  ~RemoteSession();

  const std::string& uri() const { return endpoint_->uri(); }
  const RemoteDisk& facts() const { return facts_; }
  bool read_only() const { return options_.read_only || facts_.read_only; }
  bool flushes() const { return facts_.can_flush && !read_only(); }

  // --- for lanes; thread-safe ---
  // One grant per call will be posted to the seat's loop.
  void want(const std::shared_ptr<Seat>& seat);
  void leave(const std::shared_ptr<Seat>& seat);  // no grant is posted any more
  // A connection of that generation has ended.
  void lost(std::uint64_t generation, const std::string& why);
  bool is_current(std::uint64_t generation) const { return generation_.load() == generation; }
  int failure() const { return failure_.load(); }  // 0, or the errno of a final failure
  WritePermit permit() const { return options_.permit ? options_.permit() : WritePermit::yes; }
  // The permit is never: ends all, for good.
  void forbidden();

  // Before a change is completed; false: the answer does not count.
  bool record(std::uint64_t generation, const RemoteAnswer& answer, IoOp op, std::uint64_t offset,
              std::span<const std::byte> data);
  // Whether changes must wait for a flush first, so that what is kept stays bounded.
  bool wants_flush() const;
  // When a flush is sent; an errno: it fails at once; no sync: the connection does not count
  // any more.
  struct FlushBegun {
    std::optional<UnflushedLog::Sync> sync;
    int error = 0;
  };
  FlushBegun begin_flush(std::uint64_t generation);
  // When it has succeeded; false: the answer does not count.
  bool flushed(std::uint64_t generation, std::uint64_t server, const UnflushedLog::Sync& sync);
  // As these, of a change that is stable at once, and of a flush that was not carried out.
  UnflushedLog::Sync begin_sync(std::uint64_t generation);
  void end_sync(std::uint64_t generation, const UnflushedLog::Sync& sync);
  // One of them was refused; true: the connection is of no use any more.
  bool sync_failed(std::uint64_t generation, const UnflushedLog::Sync& sync);
  // A flush that nobody asked for failed: the next one that somebody asks for does.
  void owe_flush_error(int error);
  int take_flush_error();

  // --- holes, where the server cannot be asked for them; thread-safe ---
  bool knows_holes() const { return options_.sole_writer && facts_.can_trim && !read_only(); }
  // Around each change; `key` is not another's that is under way.
  void change_begins(const void* key, const IoRequest& request);
  void change_ended(const void* key, const IoRequest& request, bool well);
  // As KnownHoles::each. The sink is called under no lock.
  void each_hole(std::uint64_t begin, std::uint64_t end,
                 const std::function<bool(std::uint64_t, std::uint64_t, bool)>& sink) const;

 private:
  using Clock = std::chrono::steady_clock;
  RemoteSession(std::unique_ptr<RemoteEndpoint> endpoint, const RemoteOptions& options);
  bool anchored() const { return !tells_ && facts_.multi_conn && flushes(); }
  bool is_the_server(std::uint64_t server) const;
  void distrust();  // under mutex_: what the server holds and has not flushed
  void keep();
  std::shared_ptr<RemoteLink> establish(std::uint64_t& generation);
  bool pause();
  Result<> replay(RemoteLink& link);
  void settle(std::uint64_t generation, const RemoteLink& link, bool replayed,
              Clock::time_point since);
  void fail_for_good(int error, const std::string& why);

  const std::unique_ptr<RemoteEndpoint> endpoint_;  // its connect() is the keeper's
  const RemoteOptions options_;
  RemoteDisk facts_;    // constant after open
  bool tells_ = false;  // links know which server they are to; constant after open
  UniqueFd stop_;    // eventfd, readable once the session ends

  // The keeper's.
  std::shared_ptr<RemoteLink> anchor_;
  std::uint64_t settled_ = 1;  // the generation whose server has all of log_
  Clock::time_point settled_at_;
  std::chrono::milliseconds delay_{0};  // before the next attempt
  std::chrono::milliseconds rest_{0};   // before the first one of a generation

  std::atomic<std::uint64_t> generation_{1};  // changed under mutex_
  std::atomic<int> failure_{0};
  mutable std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Seat>> wanting_;
  std::shared_ptr<RemoteLink> spare_;  // of open(), for the first lane
  std::uint64_t server_ = 0;        // of the settled generation
  UnflushedLog log_;                // between the end of a generation and settling: constant
  int owed_flush_error_ = 0;
  // A flush failed, or may have: all of log_ must be sent again. Who asked for it was told.
  bool resend_ = false;
  bool resend_told_ = false;
  // A flush waits for that; it was refused.
  bool resend_asked_ = false;
  int resend_error_ = 0;
  bool stopping_ = false;
  std::thread keeper_;

  mutable std::mutex holes_mutex_;       // guards holes_; nothing else is taken under it
  KnownHoles holes_;
  std::atomic<bool> any_holes_{false};  // as holes_ is not empty; changed under holes_mutex_
};

}  // namespace tidepool::blockdev
