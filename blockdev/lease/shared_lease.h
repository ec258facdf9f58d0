// A disk that several hosts serve at once, as one of them: a member (shared_format.md).
//
// A thread beats in the lock directory beside the disk, looks at what the others changed, and
// makes changes. permit() is asked before each request, as a Lease's: a member that was stopped, or
// cut off from the server, finds its time over before it writes again, and is out for good once the
// others went on without it.
//
// Limits: those of lease.h; members are SharedState::most_members at most.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "blockdev/lease/lease.h"
#include "blockdev/lease/shared_member.h"
#include "blockdev/lease/sharing.h"

namespace tidepool::blockdev::lease {

class SharedLease final : public Sharing {
 public:
  // The payload of the first member's state; `before`: the last state of those who shared the
  // disk, if nobody had it for himself since.
  using First =
      std::function<Result<std::vector<std::byte>>(const std::optional<SharedState>& before)>;

  // Blocking: at once where others share the disk or nobody has it; else as Lease::take. `sabotage`
  // of the options is not used.
  static Result<std::unique_ptr<SharedLease>> join(Lease::OpenDirectory open,
                                                   const LeaseOptions& options, const First& first,
                                                   const SharedMember::Sabotage& sabotage);
  // Stops beating, waits for no server. Nobody follows any more.
  ~SharedLease() override;
  SharedLease(const SharedLease&) = delete;
  SharedLease& operator=(const SharedLease&) = delete;

  // Every write has been answered, and none is sent any more: the others need not wait. Best
  // effort, for a few seconds at most.
  void leave();

  const Uuid& self() const override { return self_.id; }
  WritePermit permit() const override;
  void change(Edit edit, Done done) override;
  void follow(Follow follow) override;
  void acknowledge(std::uint64_t number) override;

 private:
  struct Change {
    Edit edit;
    Done done;
    std::uint64_t number = 0;  // the claim it is in, once it is proposed
  };

  SharedLease(Lease::OpenDirectory open, const LeaseOptions& options, const Member& self,
              const SharedMember::Sabotage& sabotage);
  Result<> become_first(const First& first);
  Result<> enter();
  bool pause_until(Time at, int stop);
  Result<> perform(const SharedMember::Step& step);
  void tidy();
  void publish();
  void tell_news();
  void move_changes();
  void propose();
  void keep();
  void end();

  const Lease::OpenDirectory open_;
  const LeaseOptions options_;
  const Member self_;
  const UniqueFd stop_;  // eventfd: the thread is to end
  const UniqueFd kick_;  // eventfd: there is something new for the thread
  const bool no_self_fencing_;

  // The thread's, before it runs join()'s.
  std::unique_ptr<Directory> directory_;
  SharedMember member_;
  std::vector<std::string> names_;  // in the directory
  std::deque<Change> changes_;      // oldest first
  std::uint64_t proposed_ = 0;      // the claim whose outcome is not known; 0: none
  std::vector<Uuid> leaving_;       // by what is proposed
  std::uint64_t told_ = 0;          // the claim that the follower has been told

  std::mutex follow_mutex_;  // held during calls of follow_; nothing but mutex_ under it
  Follow follow_;
  std::optional<SharedState> newest_;  // under follow_mutex_: for who follows later

  std::mutex mutex_;  // nothing is taken under it
  std::deque<Change> arrived_;
  bool closed_ = false;  // changes are refused

  std::atomic<std::uint64_t> acknowledged_{0};
  std::atomic<std::int64_t> valid_until_{0};  // Time
  std::atomic<bool> over_{false};             // lost or left
  std::thread thread_;
};

}  // namespace tidepool::blockdev::lease
