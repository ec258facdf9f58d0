#include "vmm/pci/virtio_pci.h"

#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>

#include "base/byte_order.h"
#include "base/checked.h"
#include "base/log.h"
#include "vmm/memory/memory_layout.h"

namespace tidepool::vmm {

namespace {

constexpr std::uint16_t virtio_vendor = 0x1af4, modern_device = 0x1040;
constexpr std::uint64_t page = 0x1000;
constexpr std::uint64_t common_page = 0, device_page = 2, doorbell_page = 3, table_page = 4,
                        pending_page = 5, isr_page = 1;
constexpr std::uint64_t doorbell_bytes = 4;

// Section 4.1.4: kinds of structures.
constexpr std::uint8_t common_kind = 1, notify_kind = 2, isr_kind = 3, device_kind = 4,
                       window_kind = 5;

// Section 4.1.4.3: offsets in the common configuration.
constexpr std::uint64_t device_feature_select = 0, device_feature = 4, driver_feature_select = 8,
                        driver_feature = 12, config_vector = 16, queue_count = 18,
                        device_status = 20, config_generation = 21, queue_select = 22,
                        queue_size = 24, queue_vector = 26, queue_enable = 28,
                        queue_notify_offset = 30, queue_descriptors = 32, queue_available = 40,
                        queue_used = 48, common_end = 56;

constexpr unsigned most_complaints = 10;

std::uint32_t class_of(std::uint32_t id) {
  switch (id) {
    case VIRTIO_ID_NET:
      return 0x020000;  // Ethernet
    case VIRTIO_ID_BLOCK:
      return 0x018000;  // mass storage, other
    case VIRTIO_ID_CONSOLE:
      return 0x078000;  // communication, other
    default:
      return 0xff0000;  // no class fits
  }
}

PciIdentity identity_of(const virtio::Device& device) {
  const auto number = static_cast<std::uint16_t>(modern_device + device.id());
  return {.vendor = virtio_vendor,
          .device = number,
          .subsystem_vendor = virtio_vendor,
          .subsystem = number,
          .revision = 1,
          .class_code = class_of(device.id())};
}

std::uint64_t half(std::uint64_t value, std::uint32_t which) {
  if (which > 1) return 0;
  return which == 0 ? value & UINT32_MAX : value >> 32;
}

}  // namespace

VirtioPci::VirtioPci(const PciHost& host, std::unique_ptr<virtio::Device> device)
    : host_(host), device_(std::move(device)), config_(identity_of(*device_)) {}

Result<std::unique_ptr<VirtioPci>> VirtioPci::create(const PciHost& host,
                                                     std::unique_ptr<virtio::Device> device,
                                                     std::uint32_t bar_address) {
  std::unique_ptr<VirtioPci> function(new VirtioPci(host, std::move(device)));
  for (const std::uint16_t size : function->device_->queue_sizes()) {
    Queue& queue = function->queues_.emplace_back();
    queue.size = size;
    queue.kick.reset(::eventfd(0, EFD_CLOEXEC));
    if (!queue.kick) return fail_errno(errno, "cannot create an eventfd");
    function->counted_.push_back(std::make_unique<Counted>());
  }
  const auto vectors = static_cast<std::uint16_t>(function->queues_.size() + 1);
  auto msix = Msix::create(host.vm, host.routes, vectors);
  if (!msix) return std::unexpected(msix.error());
  function->msix_ = std::move(*msix);
  function->describe(bar_address);
  return function;
}

VirtioPci::~VirtioPci() { device_->reset(); }

void VirtioPci::describe(std::uint32_t bar_address) {
  config_.add_bar(bar_bytes, bar_address);
  const auto structure = [&](std::uint8_t kind, std::uint64_t at, std::uint32_t length,
                             std::span<const std::uint8_t> more,
                             std::span<const std::uint8_t> writable) {
    std::vector<std::uint8_t> content(14 + more.size());
    content[0] = static_cast<std::uint8_t>(content.size() + 2);
    content[1] = kind;
    store_le32(&content[6], static_cast<std::uint32_t>(at));
    store_le32(&content[10], length);
    std::ranges::copy(more, content.begin() + 14);
    return config_.add_capability(PCI_CAP_ID_VNDR, content, writable);
  };
  std::array<std::uint8_t, 4> multiplier{};
  store_le32(multiplier.data(), static_cast<std::uint32_t>(doorbell_bytes));
  const auto page_bytes = static_cast<std::uint32_t>(page);
  structure(common_kind, common_page * page, common_end, {}, {});
  structure(isr_kind, isr_page * page, 1, {}, {});
  structure(device_kind, device_page * page, page_bytes, {}, {});
  structure(notify_kind, doorbell_page * page,
            static_cast<std::uint32_t>(queues_.size() * doorbell_bytes), multiplier, {});
  // A window through which the BAR can be reached: BAR, offset, length and data are the
  // guest's to write.
  std::array<std::uint8_t, 4> data{};
  std::array<std::uint8_t, 18> changeable{};
  changeable[2] = 0xff;
  std::fill(changeable.begin() + 6, changeable.end(), 0xff);
  window_capability_ = structure(window_kind, 0, 0, data, changeable);

  std::array<std::uint8_t, 10> content{};
  std::array<std::uint8_t, 10> writable{};
  store_le16(&content[0], static_cast<std::uint16_t>(msix_->vectors() - 1));
  store_le16(&writable[0],
             static_cast<std::uint16_t>(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL));
  store_le32(&content[2], static_cast<std::uint32_t>(table_page * page));
  store_le32(&content[6], static_cast<std::uint32_t>(pending_page * page));
  msix_capability_ = config_.add_capability(PCI_CAP_ID_MSIX, content, writable);
}

void VirtioPci::read_config(std::uint64_t offset, std::span<std::byte> out) {
  const std::uint64_t data_offset = window_capability_ + 16U;
  std::uint64_t bar_offset = 0;
  {
    const std::lock_guard lock(mutex_);
    config_.read(offset, out);
    if (offset != data_offset || config_.byte(window_capability_ + 4U) != 0) return;
    bar_offset = config_.dword(window_capability_ + 8U);
    if (config_.dword(window_capability_ + 12U) != out.size()) return;
  }
  if (range_fits(bar_offset, out.size(), bar_bytes)) read(bar_offset, out);
}

void VirtioPci::write_config(std::uint64_t offset, std::span<const std::byte> in) {
  const std::uint64_t data_offset = window_capability_ + 16U;
  std::uint64_t bar_offset = 0;
  {
    const std::lock_guard lock(mutex_);
    config_.write(offset, in);
    place_bar();
    const std::uint16_t control = config_.word(msix_capability_ + 2U);
    msix_->set_control((control & PCI_MSIX_FLAGS_ENABLE) != 0,
                       (control & PCI_MSIX_FLAGS_MASKALL) != 0);
    if (offset != data_offset || config_.byte(window_capability_ + 4U) != 0) return;
    bar_offset = config_.dword(window_capability_ + 8U);
    if (config_.dword(window_capability_ + 12U) != in.size()) return;
  }
  if (range_fits(bar_offset, in.size(), bar_bytes)) write(bar_offset, in);
}

// Where the guest wants the BAR, if that is in the window and free.
void VirtioPci::place_bar() {
  const std::uint64_t address = config_.bar_address();
  const bool inside =
      address >= pci_window && range_fits(address - pci_window, bar_bytes, pci_window_bytes);
  const std::uint64_t wanted = config_.memory_enabled() && inside ? address : 0;
  if (wanted == placed_at_) return;
  if (placed_at_ != 0) {
    connect_doorbells(placed_at_, false);
    host_.memory_bus.remove(placed_at_);
    placed_at_ = 0;
  }
  if (wanted == 0 || !host_.memory_bus.add(wanted, bar_bytes, *this)) return;
  placed_at_ = wanted;
  connect_doorbells(wanted, true);
}

void VirtioPci::connect_doorbells(std::uint64_t bar, bool connect) {
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    const std::uint64_t address = bar + doorbell_page * page + i * doorbell_bytes;
    const int kick = queues_[i].kick.get();
    const auto done = connect ? host_.vm.connect_doorbell(kick, address)
                              : host_.vm.disconnect_doorbell(kick, address);
    // Then its writes come to write(), which kicks as well, only slower.
    if (!done) log().warn("{}: {}", device_->name(), done.error().message);
  }
}

void VirtioPci::read(std::uint64_t offset, std::span<std::byte> out) {
  const std::uint64_t at = offset % page;
  switch (offset / page) {
    case common_page: {
      const std::lock_guard lock(mutex_);
      return put_value(read_common(at), out);
    }
    case device_page:
      return device_->read_config(at, out);
    case table_page:
      return msix_->read_table(at, out);
    case pending_page:
      return msix_->read_pending(at, out);
    default:
      return put_value(0, out);
  }
}

void VirtioPci::write(std::uint64_t offset, std::span<const std::byte> in) {
  const std::uint64_t at = offset % page;
  switch (offset / page) {
    case common_page: {
      const std::lock_guard lock(mutex_);
      return write_common(at, value_of(in));
    }
    case doorbell_page: {  // one that the kernel did not take
      const std::uint64_t one = 1, index = at / doorbell_bytes;
      if (index >= queues_.size()) return;
      [[maybe_unused]] const auto written = ::write(queues_[index].kick.get(), &one, sizeof one);
      return;
    }
    case device_page:
      return device_->write_config(at, in);
    case table_page:
      return msix_->write_table(at, in);
    default:
      return;
  }
}

std::uint64_t VirtioPci::read_common(std::uint64_t offset) {
  const Queue none;
  const Queue& queue = queue_select_ < queues_.size() ? queues_[queue_select_] : none;
  switch (offset) {
    case device_feature_select:
      return device_feature_select_;
    case device_feature:
      return half(device_->features(), device_feature_select_);
    case driver_feature_select:
      return driver_feature_select_;
    case driver_feature:
      return half(driver_features_, driver_feature_select_);
    case config_vector:
      return config_vector_;
    case queue_count:
      return queues_.size();
    case device_status:
      return status_ | (broken_ ? std::uint32_t{VIRTIO_CONFIG_S_NEEDS_RESET} : 0);
    case config_generation:
      return generation_;
    case queue_select:
      return queue_select_;
    case queue_size:
      return queue.size;
    case queue_vector:
      return queue.vector;
    case queue_enable:
      return queue.enabled ? 1 : 0;
    case queue_notify_offset:
      return queue_select_;
    case queue_descriptors:
      return queue.descriptors & UINT32_MAX;
    case queue_descriptors + 4:
      return queue.descriptors >> 32;
    case queue_available:
      return queue.available & UINT32_MAX;
    case queue_available + 4:
      return queue.available >> 32;
    case queue_used:
      return queue.used & UINT32_MAX;
    case queue_used + 4:
      return queue.used >> 32;
    default:
      return 0;
  }
}

void VirtioPci::write_common(std::uint64_t offset, std::uint64_t value) {
  const auto word = static_cast<std::uint16_t>(value);
  const std::uint16_t vector = word < msix_->vectors() ? word : Msix::no_vector;
  switch (offset) {
    case device_feature_select:
      device_feature_select_ = static_cast<std::uint32_t>(value);
      return;
    case driver_feature_select:
      driver_feature_select_ = static_cast<std::uint32_t>(value);
      return;
    case driver_feature: {
      if (driver_feature_select_ > 1 || (status_ & VIRTIO_CONFIG_S_FEATURES_OK) != 0) return;
      const unsigned shift = 32 * driver_feature_select_;
      driver_features_ = (driver_features_ & ~(std::uint64_t{UINT32_MAX} << shift)) |
                         (value & UINT32_MAX) << shift;
      return;
    }
    case config_vector:
      config_vector_ = vector;
      return;
    case device_status:
      return set_status(static_cast<std::uint8_t>(value));
    case queue_select:
      queue_select_ = word;
      return;
    default:
      break;
  }
  // A started device keeps its queues as they are.
  if (queue_select_ >= queues_.size() || started_) return;
  Queue& queue = queues_[queue_select_];
  switch (offset) {
    case queue_size:
      if (is_power_of_two(word) && word <= device_->queue_sizes()[queue_select_]) queue.size = word;
      return;
    case queue_vector:
      queue.vector = vector;
      return;
    case queue_enable:
      queue.enabled = word == 1;
      return;
    default:
      return write_queue_address(queue, offset, value);
  }
}

void VirtioPci::write_queue_address(Queue& queue, std::uint64_t offset, std::uint64_t value) {
  const auto set = [&](std::uint64_t& address, bool high) {
    const std::uint64_t kept = high ? address & UINT32_MAX : address & ~std::uint64_t{UINT32_MAX};
    address = kept | (high ? value << 32 : value & UINT32_MAX);
  };
  switch (offset) {
    case queue_descriptors:
      return set(queue.descriptors, false);
    case queue_descriptors + 4:
      return set(queue.descriptors, true);
    case queue_available:
      return set(queue.available, false);
    case queue_available + 4:
      return set(queue.available, true);
    case queue_used:
      return set(queue.used, false);
    case queue_used + 4:
      return set(queue.used, true);
    default:
      return;
  }
}

void VirtioPci::set_status(std::uint8_t status) {
  if (status == 0) return reset();
  const std::uint64_t offered = device_->features();
  if ((status & ~status_ & VIRTIO_CONFIG_S_FEATURES_OK) != 0) {
    const bool understood =
        (driver_features_ & ~offered) == 0 && (driver_features_ & virtio::feature_version_1) != 0;
    if (!understood) status = static_cast<std::uint8_t>(status & ~VIRTIO_CONFIG_S_FEATURES_OK);
  }
  const bool ready =
      (status & VIRTIO_CONFIG_S_DRIVER_OK) != 0 && (status & VIRTIO_CONFIG_S_FEATURES_OK) != 0;
  status_ = status;
  if (ready && !started_) started_ = start({});
}

// positions: of a device that was started before, one for each queue.
bool VirtioPci::start(std::span<const virtio::QueuePosition> positions) {
  virtio::DeviceStart start{.features = driver_features_};
  start.broken = [this](const std::string& why) { break_down(why); };
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    Queue& queue = queues_[i];
    auto& entry = start.queues.emplace_back();
    if (!queue.enabled) continue;
    queue.interrupt =
        std::make_unique<MsixInterrupt>(*msix_, queue.vector, counted_[i]->interrupts);
    entry = virtio::QueueStart{{queue.size, queue.descriptors, queue.available, queue.used},
                               i < positions.size() ? positions[i] : virtio::QueuePosition{},
                               queue.kick.get(),
                               queue.interrupt.get()};
    entry->figures = &counted_[i]->queue;
  }
  auto started = device_->start(std::move(start));
  if (!started) break_down(started.error().message);
  return started.has_value();
}

void VirtioPci::reset() {
  device_->reset();
  const auto sizes = device_->queue_sizes();
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    UniqueFd kick = std::move(queues_[i].kick);
    queues_[i] = Queue{.size = sizes[i], .kick = std::move(kick)};
  }
  status_ = 0;
  started_ = false;
  broken_ = false;
  driver_features_ = 0;
  device_feature_select_ = driver_feature_select_ = 0;
  queue_select_ = 0;
  config_vector_ = Msix::no_vector;
}

// On a thread of the device's, which mutex_'s holder may be waiting for.
void VirtioPci::break_down(const std::string& why) {
  if (broken_.exchange(true)) return;
  // A guest must not be able to fill the host's log.
  if (complaints_.fetch_add(1) < most_complaints) {
    log().warn("{}: its driver broke the rules: {}", device_->name(), why);
  }
  msix_->signal(config_vector_);
}

void VirtioPci::config_changed() {
  ++generation_;
  msix_->signal(config_vector_);
}

DeviceFigures VirtioPci::figures() const {
  DeviceFigures figures{.name = device_->name()};
  DeviceFigures::Served served;
  for (const auto& counted : counted_) {
    figures.interrupts += counted->interrupts;
    served.kicks += counted->queue.kicks;
    served.requests += counted->queue.requests;
    served.bytes_from_guest += counted->queue.bytes_from_guest;
    served.bytes_to_guest += counted->queue.bytes_to_guest;
  }
  if (device_->untracked_writer().empty()) figures.served = served;
  return figures;
}

void VirtioPci::quiesce() {
  const std::lock_guard lock(mutex_);
  if (started_) device_->quiesce();
}

void VirtioPci::resume() {
  const std::lock_guard lock(mutex_);
  if (starts_at_) {
    started_ = start(*starts_at_);
    starts_at_.reset();
    signal_all();
  } else if (started_) {
    device_->resume();
  }
}

}  // namespace tidepool::vmm
