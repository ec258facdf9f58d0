// Serves one queue on one event loop: takes chains, gives them to the device, and lets the
// device give them back in its own time.
//
// While the loop is awake the driver need not kick: the queue is looked at in each round.
// What is given back in one round is one interrupt.
//
// All of it runs on the loop's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/event_loop.h"
#include "virtio/device.h"
#include "virtio/split_queue.h"

namespace tidepool::virtio {

class QueueServer final : LoopWatch {
 public:
  // `serve` takes what the queue has. It is called when there may be something, and says
  // whether it took all; if not, it calls more() when it can take the rest.
  // Loop, queue's writer and the kick's descriptor outlive the server.
  QueueServer(EventLoop& loop, SplitQueue queue, const QueueStart& start,
              std::function<bool()> serve, std::function<void(const std::string&)> broken);
  ~QueueServer();
  QueueServer(const QueueServer&) = delete;
  QueueServer& operator=(const QueueServer&) = delete;

  void resume();
  // Calls `done` when the device holds no chain and the loop nothing of this server;
  // then it may be destroyed, or resumed.
  void quiesce(std::function<void()> done);

  // The next chain; false: none now, or the queue is broken, or quiet.
  bool take(Chain& chain);
  // Gives back a chain that take() gave. notify() follows, once for any number of them: the
  // driver hears of it, once of all that end in one round of the loop.
  void give(const Chain& chain, std::uint32_t written);
  void notify() { notice_due_ = true; }
  // The same for several chains at once.
  void give_all(std::span<const UsedChain> chains);
  // The last chains that were taken are too few: they come again, once there are more
  // than those.
  void put_back(std::span<const UsedChain> chains);
  // The device can take chains again.
  void more() { serve(); }
  // A chain that cannot even be answered.
  void break_down(const std::string& why);

  const SplitQueue& queue() const { return queue_; }

 private:
  struct Kick : Operation {
    QueueServer* server = nullptr;
  };
  void wait_for_kick();
  void take_kick();
  void serve();
  void check_quiet();
  void tell();
  bool look() override;
  bool may_sleep() override;

  EventLoop& loop_;
  SplitQueue queue_;
  const int kick_fd_;
  Interrupt* const interrupt_;
  QueueFigures* const figures_;  // or null
  const std::function<bool()> serve_;
  const std::function<void(const std::string&)> broken_;
  Kick kick_;
  bool waiting_ = false;  // for a kick, in the kernel's hands
  bool quiet_ = true, is_broken_ = false;
  bool took_all_ = false;       // of what there was when it was last looked at
  bool notice_due_ = false;     // at the end of this round of the loop
  unsigned held_ = 0;           // chains
  std::uint16_t put_back_ = 0;  // chains, and none taken since
  std::function<void()> when_quiet_;
};

}  // namespace tidepool::virtio
