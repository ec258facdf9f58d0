// An event loop with a thread of its own.
//
// The thread runs the loop until the object goes, with every signal blocked, so that
// signals reach the program's own thread.
//
// Limit: a loop that fails (its io_uring is unusable) ends the process, as nothing
// that is in flight on it could ever end.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "base/event_loop.h"

namespace tidepool {

// Runs the task on the thread of a loop that is running, and waits for its end. Not on
// that thread.
void call_on(EventLoop& loop, const std::function<void()>& task);

class LoopThread {
 public:
  // `name` is the thread's, as ps and a debugger show it; 15 bytes of it count.
  static Result<std::unique_ptr<LoopThread>> start(const std::string& name,
                                                   const EventLoop::Options& options);
  ~LoopThread();  // not on its own thread; what was posted before runs
  LoopThread(const LoopThread&) = delete;
  LoopThread& operator=(const LoopThread&) = delete;

  EventLoop& loop() { return *loop_; }
  void call(const std::function<void()>& task) { call_on(*loop_, task); }

 private:
  LoopThread(std::unique_ptr<EventLoop> loop, const std::string& name);

  const std::unique_ptr<EventLoop> loop_;
  std::thread thread_;
};

}  // namespace tidepool
