// Who looks at a machine's console from elsewhere: a Unix socket on which its bytes go
// both ways.
//
// What the guest prints goes to everyone who is attached, what anyone of them types goes to
// the guest. A newcomer first sees the end of what was printed before. One who does not
// read is cut off: the guest never waits.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace tidepool::vmm {

// The watchers, without the socket; outlives the machine that prints.
class ConsoleWatchers {
 public:
  static constexpr std::size_t most_kept = 16 * 1024;  // bytes of what was printed before
  static constexpr std::size_t most_watchers = 8;

  void print(std::string_view text);  // any thread, never waits
  // False: there are too many. The watcher is a connected stream socket.
  bool add(std::shared_ptr<const UniqueFd> watcher);
  void remove(int descriptor);

 private:
  std::mutex mutex_;  // guards all below
  std::string kept_;
  std::vector<std::shared_ptr<const UniqueFd>> watchers_;
};

class ConsoleSocket {
 public:
  // watchers outlive it. type() and, first, on_thread() are called on its thread. A file
  // that a dead machine left in its place is replaced.
  static Result<std::unique_ptr<ConsoleSocket>> start(const std::string& path,
                                                      ConsoleWatchers& watchers,
                                                      std::function<void(std::string_view)> type,
                                                      std::function<void()> on_thread);
  ~ConsoleSocket();
  ConsoleSocket(const ConsoleSocket&) = delete;
  ConsoleSocket& operator=(const ConsoleSocket&) = delete;

 private:
  ConsoleSocket(std::string path, ConsoleWatchers& watchers, UniqueFd listener, UniqueFd wakeup,
                std::function<void(std::string_view)> type);
  void serve();
  void accept();
  bool read_from(const UniqueFd& watcher);

  const std::string path_;
  ConsoleWatchers& watchers_;
  const UniqueFd listener_, wakeup_;  // wakeup_: an eventfd that says it ends
  const std::function<void(std::string_view)> type_;
  std::vector<std::shared_ptr<const UniqueFd>> attached_;  // the thread's
  std::thread thread_;
};

}  // namespace tidepool::vmm
