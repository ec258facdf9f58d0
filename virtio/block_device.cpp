#include "virtio/block_device.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>

#include <algorithm>

#include "base/byte_order.h"
#include "base/checked.h"
#include "virtio/block_queue.h"
#include "virtio/config_space.h"

namespace tidepool::virtio {

namespace {

constexpr std::uint16_t most_queues = 64;
// The header and the status take a piece each.
constexpr std::uint32_t most_data_segments = Chain::most_segments - 2;
constexpr std::size_t config_bytes = 60;
// What drivers take as a disk's block: not less than a sector, not more than a page.
constexpr std::uint32_t largest_block = 4096;  // bytes

constexpr std::uint64_t bit(unsigned number) { return std::uint64_t{1} << number; }

// A store may be read and written in single bytes, as a chain can: a driver that is told
// so leaves the disk alone.
std::uint32_t block_of(const blockdev::Geometry& geometry) {
  return std::max<std::uint32_t>(geometry.logical_block, sector_bytes);
}

}  // namespace

BlockDevice::BlockDevice(std::shared_ptr<blockdev::BlockStore> store, BlockOptions options)
    : store_(std::move(store)), options_(std::move(options)), name_("disk " + store_->name()) {}

Result<std::unique_ptr<BlockDevice>> BlockDevice::create(
    std::shared_ptr<blockdev::BlockStore> store, BlockOptions options) {
  if (options.queues == 0 || options.queues > most_queues) {
    return fail(ErrorKind::invalid_argument, "'{}': {} queues are asked for, 1 to {} are possible",
                store->name(), options.queues, most_queues);
  }
  if (!is_power_of_two(options.queue_size) || options.queue_size > most_queue_entries) {
    return fail(ErrorKind::invalid_argument,
                "'{}': a queue of {} entries is asked for, it must be a power of two up to {}",
                store->name(), options.queue_size, most_queue_entries);
  }
  if (const auto block = block_of(store->geometry()); block > largest_block) {
    return fail(ErrorKind::unsupported,
                "'{}' is read and written in blocks of {} bytes: a disk of a guest has at "
                "most {}",
                store->name(), block, largest_block);
  }
  std::unique_ptr<BlockDevice> device(new BlockDevice(std::move(store), std::move(options)));
  for (unsigned i = 0; i < device->options_.queues; ++i) {
    auto queue = BlockQueue::create(*device->store_, fmt::format("{} {}", device->name_, i),
                                    device->options_.serial);
    if (!queue) return std::unexpected(queue.error());
    device->queues_.push_back(std::move(*queue));
  }
  return device;
}

BlockDevice::~BlockDevice() = default;

std::uint32_t BlockDevice::id() const { return VIRTIO_ID_BLOCK; }

std::uint64_t BlockDevice::features() const {
  const blockdev::Geometry geometry = store_->geometry();
  std::uint64_t bits = ring_features | bit(VIRTIO_BLK_F_SEG_MAX) | bit(VIRTIO_BLK_F_BLK_SIZE) |
                       bit(VIRTIO_BLK_F_FLUSH) | bit(VIRTIO_BLK_F_MQ);
  if (geometry.read_only) return bits | bit(VIRTIO_BLK_F_RO);
  if (geometry.can_discard) bits |= bit(VIRTIO_BLK_F_DISCARD);
  return bits | bit(VIRTIO_BLK_F_WRITE_ZEROES);
}

std::vector<std::uint16_t> BlockDevice::queue_sizes() const {
  return std::vector<std::uint16_t>(queues_.size(), options_.queue_size);
}

void BlockDevice::read_config(std::uint64_t offset, std::span<std::byte> out) const {
  const blockdev::Geometry geometry = store_->geometry();
  std::array<std::byte, config_bytes> config{};
  const std::uint32_t block = block_of(geometry);
  const auto alignment = static_cast<std::uint32_t>(block / sector_bytes);
  store_le64(&config[offsetof(virtio_blk_config, capacity)], geometry.size / sector_bytes);
  store_le32(&config[offsetof(virtio_blk_config, seg_max)], most_data_segments);
  store_le32(&config[offsetof(virtio_blk_config, blk_size)], block);
  store_le16(&config[offsetof(virtio_blk_config, num_queues)], options_.queues);
  store_le32(&config[offsetof(virtio_blk_config, max_discard_sectors)], most_range_sectors);
  store_le32(&config[offsetof(virtio_blk_config, max_discard_seg)], most_ranges);
  store_le32(&config[offsetof(virtio_blk_config, discard_sector_alignment)], alignment);
  store_le32(&config[offsetof(virtio_blk_config, max_write_zeroes_sectors)], most_range_sectors);
  store_le32(&config[offsetof(virtio_blk_config, max_write_zeroes_seg)], most_ranges);
  config[offsetof(virtio_blk_config, write_zeroes_may_unmap)] = std::byte{1};
  copy_config(config, offset, out);
}

void BlockDevice::connect(std::shared_ptr<const GuestMemory> memory) {
  for (auto& queue : queues_) queue->writer().connect(memory);
}

Result<> BlockDevice::start(DeviceStart start) {
  const bool event_index = (start.features & feature_event_index) != 0;
  const bool stable = (start.features & bit(VIRTIO_BLK_F_FLUSH)) == 0;
  const std::size_t count = std::min(queues_.size(), start.queues.size());
  for (std::size_t i = 0; i < count; ++i) {
    if (!start.queues[i]) continue;
    auto started = queues_[i]->start(*start.queues[i], event_index, stable, start.broken);
    if (started) continue;
    reset();
    return started;
  }
  return {};
}

void BlockDevice::quiesce() {
  for (auto& queue : queues_) queue->quiesce();
}

void BlockDevice::resume() {
  for (auto& queue : queues_) queue->resume();
}

void BlockDevice::reset() {
  quiesce();
  for (auto& queue : queues_) queue->reset();
}

std::vector<QueuePosition> BlockDevice::positions() const {
  std::vector<QueuePosition> positions;
  for (const auto& queue : queues_) positions.push_back(queue->position());
  return positions;
}

std::vector<MemoryWriter*> BlockDevice::writers() {
  std::vector<MemoryWriter*> writers;
  for (auto& queue : queues_) writers.push_back(&queue->writer());
  return writers;
}

void BlockDevice::on_each_thread(const std::function<void()>& task) {
  for (auto& queue : queues_) queue->on_thread(task);
}

}  // namespace tidepool::virtio
