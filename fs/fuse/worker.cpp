#include "fs/fuse/worker.h"

#include "base/log.h"

namespace tidepool::elasticfs {

Result<std::unique_ptr<Worker>> Worker::create(pool::Pool& pool, Receiver& receiver, UniqueFd fd,
                                               const WorkerOptions& options) {
  std::unique_ptr<Worker> worker(new Worker(receiver, std::move(fd)));
  auto loop = EventLoop::create({.wide_entries = options.wide_entries, .spin = options.spin});
  if (!loop) return std::unexpected(loop.error());
  worker->loop_ = std::move(*loop);
  auto channel = pool::PoolChannel::open(pool, *worker->loop_);
  if (!channel) return std::unexpected(channel.error());
  worker->channel_ = std::move(*channel);
  worker->classic_ = make_classic_transport(*worker->loop_, *worker, receiver, worker->fd_.get(),
                                            options.classic_exchanges);
  return worker;
}

void Worker::start() {
  thread_ = std::thread([this] { run(); });
}

unsigned Worker::pending() const {
  return classic_->pending() + (queues_ ? queues_->pending() : 0);
}

void Worker::run() {
  classic_->start();
  while (!stopping_.load()) {
    if (auto handled = loop_->poll(true); !handled) {
      log().critical("elasticfs: {}", handled.error().message);
      return receiver_.disconnected();
    }
  }
  auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (pending() > 0 && std::chrono::steady_clock::now() < give_up) {
    if (!loop_->poll(false)) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void Worker::stop() {
  if (!thread_.joinable()) return;
  stopping_.store(true);
  loop_->stop();
  thread_.join();
}

void Worker::serve_queues(unsigned first, unsigned step, unsigned count, unsigned depth) {
  loop_->post([=, this] {
    queues_ = make_uring_transport(*loop_, *this, receiver_, fd_.get(), first, step, count, depth);
    queues_->start();
  });
}

}  // namespace tidepool::elasticfs
