#include "base/loop_thread.h"

#include <cstdlib>
#include <future>
#include <system_error>

#include "base/log.h"
#include "base/quiet_thread.h"

namespace tidepool {

Result<std::unique_ptr<LoopThread>> LoopThread::start(const std::string& name,
                                                      const EventLoop::Options& options) {
  auto loop = EventLoop::create(options);
  if (!loop) return std::unexpected(loop.error());
  try {
    return std::unique_ptr<LoopThread>(new LoopThread(std::move(*loop), name));
  } catch (const std::system_error& error) {  // no thread is left
    return fail_errno(error.code().value(), fmt::format("cannot start the thread '{}'", name));
  }
}

LoopThread::LoopThread(std::unique_ptr<EventLoop> loop, const std::string& name)
    : loop_(std::move(loop)), thread_(start_quiet_thread(name, [this] {
        if (auto ended = loop_->run(); !ended) {
          log().critical("event loop: {}", ended.error().message);
          std::abort();
        }
      })) {}

LoopThread::~LoopThread() {
  loop_->post([this] { loop_->stop(); });
  thread_.join();
}

void call_on(EventLoop& loop, const std::function<void()>& task) {
  std::promise<void> done;
  loop.post([&] {
    task();
    done.set_value();
  });
  done.get_future().wait();
}

}  // namespace tidepool
