#include "virtio/scsi_device.h"

#include <linux/virtio_ids.h>
#include <linux/virtio_scsi.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/byte_order.h"

namespace tidepool::virtio {

namespace {

constexpr unsigned control_queue = 0, event_queue = 1, first_request_queue = 2;
constexpr std::uint16_t most_request_queues = 64;
constexpr std::uint16_t queue_entries = 256;
constexpr std::uint64_t largest_data = 32U << 20;    // bytes of one request, each way
constexpr std::uint64_t most_under_way = 64U << 20;  // bytes
// Request and response take a piece each.
constexpr std::uint32_t most_data_segments = Chain::most_segments - 2;
constexpr std::uint32_t sector_bytes = 512;
constexpr unsigned burst = 64;                 // chains, before others on the loop have their turn
constexpr std::uint8_t function_complete = 0;  // which the kernel's header has no name for

}  // namespace

ScsiDevice::ScsiDevice(scsi::Device& target, EventLoop& loop, ScsiOptions options)
    : OneThreadDevice(options.name, first_request_queue + options.request_queues, queue_entries),
      target_(target),
      options_(std::move(options)),
      taken_(first_request_queue + options_.request_queues),
      full_(taken_.size()),
      dropping_(VIRTIO_SCSI_S_RESET) {
  serve_on(loop);
}

Result<std::unique_ptr<ScsiDevice>> ScsiDevice::create(scsi::Device& target, EventLoop& loop,
                                                       ScsiOptions options) {
  if (options.request_queues == 0 || options.request_queues > most_request_queues) {
    return fail(ErrorKind::invalid_argument,
                "'{}': {} request queues are asked for, 1 to {} are possible", options.name,
                options.request_queues, most_request_queues);
  }
  std::unique_ptr<ScsiDevice> device(new ScsiDevice(target, loop, std::move(options)));
  device->call([&device] { device->nexus_ = device->target_.connect(device->options_.port); });
  return device;
}

ScsiDevice::~ScsiDevice() {
  call([this] { target_.disconnect(nexus_); });
}

std::uint32_t ScsiDevice::id() const { return VIRTIO_ID_SCSI; }

// CHANGE is a promise to tell of what never happens. QEMU's front end passes a driver's wish
// for it on, offered or not.
std::uint64_t ScsiDevice::features() const {
  return ring_features | std::uint64_t{1} << VIRTIO_SCSI_F_CHANGE;
}

void ScsiDevice::read_config(std::uint64_t offset, std::span<std::byte> out) const {
  std::array<std::byte, sizeof(virtio_scsi_config)> config{};
  const auto put = [&config](std::size_t at, std::uint32_t value) {
    store_le32(&config[at], value);
  };
  put(offsetof(virtio_scsi_config, num_queues), options_.request_queues);
  put(offsetof(virtio_scsi_config, seg_max), most_data_segments);
  put(offsetof(virtio_scsi_config, max_sectors), largest_data / sector_bytes);
  put(offsetof(virtio_scsi_config, cmd_per_lun), queue_entries / 2);
  put(offsetof(virtio_scsi_config, event_info_size), sizeof(virtio_scsi_event));
  put(offsetof(virtio_scsi_config, sense_size), scsi_sense_bytes);
  put(offsetof(virtio_scsi_config, cdb_size), scsi_cdb_bytes);
  put(offsetof(virtio_scsi_config, max_lun), scsi::Device::most_luns - 1);
  std::ranges::fill(out, std::byte{});
  if (offset >= config.size()) return;
  const std::size_t count = std::min(out.size(), config.size() - static_cast<std::size_t>(offset));
  std::memcpy(out.data(), config.data() + offset, count);
}

// A driver that goes on finds its queues where they were; one that begins anew does not.
Result<> ScsiDevice::start(DeviceStart start) {
  const auto ended = positions();
  bool anew = false;
  for (std::size_t i = 0; i < std::min(ended.size(), start.queues.size()); ++i) {
    const auto& queue = start.queues[i];
    anew = anew || (queue && queue->position.next_available != ended[i].next_available);
  }
  if (anew) call([this] { drop_all(); });
  return OneThreadDevice::start(std::move(start));
}

// Nothing is started meanwhile.
void ScsiDevice::drop_all() {
  const bool was_starting = std::exchange(starting_, true);
  drop_held(nullptr);
  target_.disconnect(nexus_);
  nexus_ = target_.connect(options_.port);
  starting_ = was_starting;
  start_held();
}

bool ScsiDevice::serve(unsigned queue) {
  if (queue == event_queue) return false;  // its buffers are for events, and there are none
  return queue == control_queue ? serve_control() : serve_requests(queue);
}

// After a burst.
bool ScsiDevice::serve_later(unsigned queue) {
  loop().post([this, queue] {
    if (QueueServer* const server = this->server(queue)) server->more();
  });
  return false;
}

// --- requests ---

// As many as the queue has entries: more only a driver offers that gives the same entry
// twice.
bool ScsiDevice::serve_requests(unsigned queue) {
  QueueServer& server = *this->server(queue);
  for (unsigned count = 0; count < burst; ++count) {
    full_[queue] = taken_[queue] >= server.queue().layout().size;
    if (full_[queue]) return false;
    if (free_.empty()) {
      slots_.push_back(std::make_unique<Slot>());
      slots_.back()->index = slots_.size() - 1;
      free_.push_back(slots_.back().get());
    }
    Slot& slot = *free_.back();
    if (!server.take(slot.chain)) return true;
    free_.pop_back();
    slot.queue = queue;
    ++taken_[queue];
    if (!begin(slot)) return true;
  }
  return serve_later(queue);
}

bool ScsiDevice::begin(Slot& slot) {
  const auto asked = parse_scsi_request(slot.chain);
  if (!asked) {
    QueueServer& server = *this->server(slot.queue);
    server.break_down("a SCSI request without a header or without room for its response");
    server.give(slot.chain, 0);
    --taken_[slot.queue];
    free_.push_back(&slot);
    server.notify();
    return false;
  }
  slot.asked = *asked;
  slot.busy = slot.held = true;
  slot.unit = nullptr;
  slot.task = 0;
  slot.cost = 0;
  if (!asked->address.ours) return answer(slot, {.response = VIRTIO_SCSI_S_BAD_TARGET}), true;
  // Both directions at once are not offered; what is longer than was said is no request of
  // a driver's that read it.
  const bool both = asked->data_out > 0 && asked->data_in > 0;
  if (both || asked->data_out > largest_data) {
    return answer(slot, {.response = VIRTIO_SCSI_S_FAILURE}), true;
  }
  slot.cost = asked->data_out + std::min(asked->data_in, largest_data);
  held_.push_back(&slot);
  start_held();
  return true;
}

void ScsiDevice::start_held() {
  if (std::exchange(starting_, true)) return;
  while (!held_.empty()) {
    Slot& slot = *held_.front();
    // One alone may be as large as it likes.
    if (under_way_ > 0 && under_way_ + slot.cost > most_under_way) break;
    held_.pop_front();
    slot.held = false;
    under_way_ += slot.cost;
    start_task(slot);
  }
  starting_ = false;
}

void ScsiDevice::start_task(Slot& slot) {
  const ScsiRequest& asked = slot.asked;
  auto task = std::make_unique<scsi::Task>();
  task->owner = this;
  task->nexus = nexus_;
  task->tag = slot.index;
  task->attribute = asked.attribute;
  task->cdb = asked.cdb;
  task->data_in_room = static_cast<std::uint32_t>(std::min(asked.data_in, largest_data));
  if (asked.data_out > 0) {
    task->data_out = scsi::DataBuffer::allocate(asked.data_out);
    if (task->data_out.size() == 0) return answer(slot, {.response = VIRTIO_SCSI_S_BUSY});
    copy_scsi_data_out(slot.chain, task->data_out.span());
    task->data_out_length = static_cast<std::uint32_t>(asked.data_out);
  }
  slot.unit = target_.find(asked.address.lun);
  if (slot.unit != nullptr) slot.task = slot.unit->next_id();
  target_.submit(asked.address.lun, std::move(task));
}

void ScsiDevice::want_data(scsi::Task&) {}  // it is always there

void ScsiDevice::finished(std::unique_ptr<scsi::Task> task) {
  Slot& slot = *slots_[task->tag];
  const ScsiRequest& asked = slot.asked;
  ScsiResponse response{.response = VIRTIO_SCSI_S_OK,
                        .status = static_cast<std::uint8_t>(task->status),
                        .sense = task->sense};
  const bool out = asked.data_out > 0;
  const std::uint64_t room = out ? asked.data_out : asked.data_in;
  const std::uint64_t moved = out ? task->data_out_wanted : task->data_in_length;
  // A response has no other way to say that the command wanted more.
  const bool good = task->status == scsi::Status::good;
  if (good && moved > room) response.response = VIRTIO_SCSI_S_OVERRUN;
  if (moved < room) {
    response.residual =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(room - moved, UINT32_MAX));
  }
  const auto in = std::min({std::uint64_t{task->data_in_length}, asked.data_in, largest_data});
  answer(slot, response, task->data_in.span().first(in));
}

void ScsiDevice::dropped(scsi::Task& task) { answer(*slots_[task.tag], {.response = dropping_}); }

void ScsiDevice::answer(Slot& slot, const ScsiResponse& response, std::span<const std::byte> data) {
  const std::uint32_t written = write_scsi_response(slot.chain, response, data);
  if (!slot.held) under_way_ -= slot.cost;
  slot.busy = slot.held = false;
  const unsigned queue = slot.queue;
  --taken_[queue];
  free_.push_back(&slot);
  QueueServer& server = *this->server(queue);
  server.give(slot.chain, written);
  server.notify();
  start_held();
  if (full_[queue]) {
    full_[queue] = false;
    server.more();
  }
}

// --- task management ---

bool ScsiDevice::serve_control() {
  QueueServer& server = *this->server(control_queue);
  for (unsigned count = 0; count < burst; ++count) {
    if (!server.take(chain())) return true;
    const auto control = parse_scsi_control(chain());
    if (!control) {
      server.break_down("a control request without a header or without room for its answer");
      server.give(chain(), 0);
      server.notify();
      return true;
    }
    std::uint8_t response = VIRTIO_SCSI_S_FUNCTION_REJECTED;
    if (control->kind == ScsiControlKind::task_management) response = manage(*control);
    if (control->kind == ScsiControlKind::notification) {
      response = control->address.ours ? VIRTIO_SCSI_S_OK : VIRTIO_SCSI_S_BAD_TARGET;
    }
    server.give(chain(), write_scsi_control(chain(), control->kind, response));
    server.notify();
  }
  return serve_later(control_queue);
}

std::uint8_t ScsiDevice::manage(const ScsiControl& control) {
  // What the driver offered before it is meant, too.
  for (unsigned queue = first_request_queue; queue < taken_.size(); ++queue) {
    if (QueueServer* const server = this->server(queue)) server->more();
  }
  if (!control.address.ours) return VIRTIO_SCSI_S_BAD_TARGET;
  if (control.function == VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET) {
    drop_all();
    return function_complete;
  }
  scsi::LogicalUnit* const unit = target_.find(control.address.lun);
  if (unit == nullptr) return VIRTIO_SCSI_S_INCORRECT_LUN;
  const bool was_starting = std::exchange(starting_, true);
  const std::uint8_t response = manage_unit(control, *unit);
  starting_ = was_starting;
  dropping_ = VIRTIO_SCSI_S_RESET;
  start_held();
  return response;
}

// Nothing is started meanwhile.
std::uint8_t ScsiDevice::manage_unit(const ScsiControl& control, scsi::LogicalUnit& unit) {
  switch (control.function) {
    case VIRTIO_SCSI_T_TMF_ABORT_TASK:
      dropping_ = VIRTIO_SCSI_S_ABORTED;
      abort_task(control, unit);
      return function_complete;
    case VIRTIO_SCSI_T_TMF_ABORT_TASK_SET:
      dropping_ = VIRTIO_SCSI_S_ABORTED;
      drop_held(&control.address);
      unit.abort_tasks_of(nexus_);
      return function_complete;
    case VIRTIO_SCSI_T_TMF_CLEAR_TASK_SET:
      dropping_ = VIRTIO_SCSI_S_ABORTED;
      drop_held(&control.address);
      unit.clear_tasks(nexus_);
      return function_complete;
    case VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET:
      drop_held(&control.address);
      unit.reset(scsi::asc::bus_device_reset);
      return function_complete;
    case VIRTIO_SCSI_T_TMF_QUERY_TASK:
    case VIRTIO_SCSI_T_TMF_QUERY_TASK_SET: {
      const bool any = control.function == VIRTIO_SCSI_T_TMF_QUERY_TASK_SET;
      return has_task(control, any) ? VIRTIO_SCSI_S_FUNCTION_SUCCEEDED : function_complete;
    }
    default:
      return VIRTIO_SCSI_S_FUNCTION_REJECTED;
  }
}

bool ScsiDevice::has_task(const ScsiControl& control, bool any_id) const {
  return std::ranges::any_of(slots_, [&](const auto& slot) {
    return slot->busy && slot->asked.address == control.address &&
           (any_id || slot->asked.id == control.id);
  });
}

void ScsiDevice::abort_task(const ScsiControl& control, scsi::LogicalUnit& unit) {
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    Slot& slot = *slots_[i];
    if (!slot.busy || slot.asked.id != control.id || slot.asked.address != control.address) {
      continue;
    }
    if (slot.held) {
      std::erase(held_, &slot);
      answer(slot, {.response = dropping_});
    } else {
      unit.abort(slot.task);
    }
  }
}

void ScsiDevice::drop_held(const ScsiAddress* address) {
  for (Slot* const slot : std::deque(held_)) {
    if (address != nullptr && slot->asked.address != *address) continue;
    std::erase(held_, slot);
    answer(*slot, {.response = dropping_});
  }
}

}  // namespace tidepool::virtio
