// How a virtio function is saved, and made again of what was saved.
//
// What its queues hold is in the guest's memory; of the device there is only how far it
// has come. An interrupt may have been on its way when the machine stood still: so each
// queue's comes once more when a restored one goes on, which a driver must bear.
#include <linux/pci_regs.h>

#include <algorithm>

#include "base/checked.h"
#include "vmm/pci/virtio_pci.h"

namespace tidepool::vmm {

std::array<std::byte, 64> VirtioPci::device_config() const {
  std::array<std::byte, 64> bytes{};
  if (!device_->config_is_state()) device_->read_config(0, bytes);
  return bytes;
}

FunctionState VirtioPci::save() {
  const std::lock_guard lock(mutex_);
  FunctionState state{.device = device_->id(),
                      .device_config = device_config(),
                      .config = config_.values(),
                      .status = status_,
                      .started = started_ || starts_at_,
                      .broken = broken_,
                      .device_feature_select = device_feature_select_,
                      .driver_feature_select = driver_feature_select_,
                      .driver_features = driver_features_,
                      .queue_select = queue_select_,
                      .config_vector = config_vector_,
                      .queues = {},
                      .vectors = msix_->save(),
                      .inner = device_->save()};
  const auto positions = starts_at_ ? *starts_at_ : device_->positions();
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    const Queue& queue = queues_[i];
    state.queues.push_back({queue.size, queue.vector, queue.enabled, queue.descriptors,
                            queue.available, queue.used, positions[i].next_available,
                            positions[i].next_used});
  }
  return state;
}

Result<> VirtioPci::check(const FunctionState& state) const {
  const auto differs = [&](const char* what) {
    return fail(ErrorKind::invalid_argument, "'{}' is not as it was when the machine was saved: {}",
                device_->name(), what);
  };
  if (state.device != device_->id()) return differs("it is a device of another kind");
  if (state.queues.size() != queues_.size() || state.vectors.size() != msix_->vectors())
    return differs("it has another number of queues");
  if (state.device_config != device_config())
    return differs("its size or another property has changed");
  if ((state.driver_features & ~device_->features()) != 0)
    return differs("it lacks features that the guest uses");
  const auto sizes = device_->queue_sizes();
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (!is_power_of_two(state.queues[i].size) || state.queues[i].size > sizes[i])
      return differs("a queue is longer than is possible");
  }
  return {};
}

Result<> VirtioPci::restore(const FunctionState& state) {
  if (auto checked = check(state); !checked) return checked;
  const std::lock_guard lock(mutex_);
  if (!config_.restore(state.config) || !device_->restore(state.inner)) {
    return fail(ErrorKind::invalid_argument, "'{}' cannot be what was saved as it",
                device_->name());
  }
  status_ = state.status;
  device_feature_select_ = state.device_feature_select;
  driver_feature_select_ = state.driver_feature_select;
  driver_features_ = state.driver_features;
  queue_select_ = state.queue_select;
  config_vector_ = state.config_vector;
  std::vector<virtio::QueuePosition> positions;
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    const QueueState& saved = state.queues[i];
    Queue& queue = queues_[i];
    queue.size = saved.size;
    queue.vector = saved.vector;
    queue.enabled = saved.enabled;
    queue.descriptors = saved.descriptors;
    queue.available = saved.available;
    queue.used = saved.used;
    positions.push_back({saved.next_available, saved.next_used});
  }
  broken_ = state.broken;
  // A device whose driver broke the rules rests; nothing of it is started.
  started_ = state.started && state.broken;
  if (state.started && !state.broken) starts_at_ = std::move(positions);
  msix_->restore(state.vectors);
  const std::uint16_t control = config_.word(msix_capability_ + 2U);
  msix_->set_control((control & PCI_MSIX_FLAGS_ENABLE) != 0,
                     (control & PCI_MSIX_FLAGS_MASKALL) != 0);
  place_bar();
  return {};
}

void VirtioPci::signal_all() {
  for (const Queue& queue : queues_) {
    if (queue.enabled) msix_->signal(queue.vector);
  }
}

}  // namespace tidepool::vmm
