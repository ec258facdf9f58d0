#include "virtio/one_thread_device.h"

#include <algorithm>
#include <future>

namespace tidepool::virtio {

namespace {
constexpr unsigned few_entries = 16;
}

OneThreadDevice::OneThreadDevice(const std::string& name, unsigned queues, std::uint16_t queue_size)
    : queue_size_(queue_size), writer_(name), positions_(queues), servers_(queues) {}

Result<> OneThreadDevice::start_thread() {
  auto thread = LoopThread::start(name(), {.entries = few_entries});
  if (!thread) return std::unexpected(thread.error());
  thread_ = std::move(*thread);
  loop_ = &thread_->loop();
  return {};
}

std::vector<std::uint16_t> OneThreadDevice::queue_sizes() const {
  return std::vector<std::uint16_t>(servers_.size(), queue_size_);
}

void OneThreadDevice::read_config(std::uint64_t, std::span<std::byte> out) const {
  std::ranges::fill(out, std::byte{});
}

void OneThreadDevice::connect(std::shared_ptr<const GuestMemory> memory) {
  writer_.connect(std::move(memory));
}

Result<> OneThreadDevice::start(DeviceStart start) {
  const bool event_index = (start.features & feature_event_index) != 0;
  const std::size_t count = std::min(servers_.size(), start.queues.size());
  for (unsigned i = 0; i < count; ++i) {
    const auto& wanted = start.queues[i];
    if (!wanted) continue;
    auto queue = SplitQueue::create(writer_, wanted->layout, event_index, wanted->position);
    if (!queue) {
      reset();
      return std::unexpected(queue.error());
    }
    if (wanted->notes != nullptr) queue->keep_notes(*wanted->notes, wanted->left);
    positions_[i] = wanted->position;
    call([&] {
      servers_[i].emplace(
          *loop_, std::move(*queue), *wanted, [this, i] { return serve(i); }, start.broken);
      servers_[i]->resume();
    });
  }
  return {};
}

void OneThreadDevice::quiesce() {
  for (unsigned i = 0; i < servers_.size(); ++i) {
    std::promise<void> quiet;
    loop_->post([&] {
      if (!servers_[i]) return quiet.set_value();
      servers_[i]->quiesce([&] {
        positions_[i] = servers_[i]->queue().position();
        quiet.set_value();
      });
    });
    quiet.get_future().wait();
  }
}

void OneThreadDevice::resume() {
  call([this] {
    for (auto& server : servers_)
      if (server) server->resume();
  });
}

void OneThreadDevice::reset() {
  quiesce();
  call([this] {
    for (auto& server : servers_) server.reset();
  });
}

}  // namespace tidepool::virtio
