// A virtio device whose body is in another process, a vhost-user back end: our side of
// it, which passes the driver's queues, the guest's memory and the doorbells on.
//
// A kick goes from the guest to the back end by the kernel alone; an interrupt is passed
// on by a thread here. A back end that goes away is waited for and given everything
// again; the region in which it notes what it has taken (INFLIGHT_SHMFD) lets the new one
// finish what the old one left, so that the guest sees a pause and no error. One that does
// not keep such notes cannot be replaced: the device then says that it is broken.
//
// What the back end writes to guest memory nobody tracks: untracked_writer() names it.
//
// Limits: the guest's memory must be memory files; the configuration is that of the first
// back end, and another one that differs in it is not taken.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "virtio/device.h"
#include "virtio/vhost_user/front_end.h"

namespace tidepool::virtio::vhost_user {

struct ForeignOptions {
  std::uint32_t id = 0;            // the standard's number of the kind
  std::uint64_t features = 0;      // of the kind, that may be offered to the driver
  std::uint64_t own_features = 0;  // that are ours: the back end is not told of them
  std::uint32_t config_bytes = 0;  // that the back end is asked for; 0: `config` is it
  std::vector<std::byte> config;
  std::uint16_t queues = 1;                     // at most
  bool whole_pairs = false;                     // they come in pairs, of which one is always there
  std::optional<std::uint32_t> queue_count_at;  // where the configuration says how many
  std::chrono::milliseconds patience = usual_patience;  // with each answer of the back end's
};

class ForeignDevice final : public Device {
 public:
  static Result<std::unique_ptr<ForeignDevice>> create(const std::string& socket,
                                                       ForeignOptions options);
  ~ForeignDevice() override;

  const std::string& name() const override { return name_; }
  std::uint32_t id() const override { return options_.id; }
  std::uint64_t features() const override { return features_; }
  std::vector<std::uint16_t> queue_sizes() const override;
  void read_config(std::uint64_t offset, std::span<std::byte> out) const override;
  void connect(std::shared_ptr<const GuestMemory> memory) override { memory_ = std::move(memory); }
  Result<> start(DeviceStart start) override;
  void quiesce() override;
  void resume() override;
  void reset() override;
  std::vector<QueuePosition> positions() const override { return positions_; }
  std::vector<MemoryWriter*> writers() override { return {}; }
  std::string untracked_writer() const override { return name_; }
  void on_each_thread(const std::function<void()>& task) override;

 private:
  ForeignDevice(std::string socket, ForeignOptions options);
  Result<std::unique_ptr<FrontEnd>> find_back_end() const;
  Result<std::vector<std::byte>> ask_config(FrontEnd& front) const;

  // All with mutex_ held.
  Result<> set_up();  // gives the back end everything
  Result<> share_memory();
  Result<> share_inflight();
  Result<> start_queue(std::uint32_t index);
  std::optional<std::uint64_t> host_address(std::uint64_t guest) const;
  std::uint16_t used_index(const QueueStart& queue) const;
  void stop_queues();
  void lose(const std::string& why);
  // Who is to be told that the device is broken, if it is; and why.
  std::function<void()> try_again(std::unique_ptr<FrontEnd> front, std::vector<std::byte> config);

  void watch();
  void wake();

  static constexpr std::uint16_t queue_entries = 256;

  // Constant after create().
  const std::string socket_, name_;
  const ForeignOptions options_;
  std::uint64_t features_ = 0;
  std::vector<std::byte> config_;
  std::vector<UniqueFd> calls_;  // an eventfd for each queue
  UniqueFd wakeup_;              // an eventfd

  std::shared_ptr<const GuestMemory> memory_;  // the transport's thread's
  std::vector<QueuePosition> positions_;       // the transport's thread's

  mutable std::mutex mutex_;         // guards what follows; held while the back end is asked
  std::unique_ptr<FrontEnd> front_;  // null: it is gone
  std::optional<DeviceStart> start_;
  std::vector<std::uint16_t> bases_;  // next available entries, for the next set_up()
  bool going_ = false;                // started and not quiet
  bool served_ = false;               // by some back end, since it was started
  UniqueFd inflight_file_;
  std::optional<Inflight> inflight_;
  bool telling_ = false;  // that it is broken: reset() waits for the end of that
  std::condition_variable told_;
  std::function<void()> task_;  // for the thread; empty: none

  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace tidepool::virtio::vhost_user
