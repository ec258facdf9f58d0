#include "virtio/balloon_device.h"

#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/byte_order.h"
#include "base/codec.h"
#include "base/log.h"
#include "base/size_text.h"

namespace tidepool::virtio {

namespace {

// Queues that are not offered have no number.
constexpr unsigned inflate_queue = 0, deflate_queue = 1;
constexpr std::uint64_t target_offset = 0, held_offset = 4, config_bytes = 8;

constexpr std::uint64_t bit(unsigned number) { return std::uint64_t{1} << number; }

}  // namespace

Result<std::unique_ptr<BalloonDevice>> BalloonDevice::create() {
  std::unique_ptr<BalloonDevice> device(new BalloonDevice);
  if (auto started = device->start_thread(); !started) return std::unexpected(started.error());
  return device;
}

std::uint32_t BalloonDevice::id() const { return VIRTIO_ID_BALLOON; }

std::uint64_t BalloonDevice::features() const {
  return ring_features | bit(VIRTIO_BALLOON_F_DEFLATE_ON_OOM) | bit(VIRTIO_BALLOON_F_REPORTING);
}

void BalloonDevice::connect(std::shared_ptr<const GuestMemory> memory) {
  memory_bytes_ = 0;
  for (const GuestRegion& region : memory->regions()) memory_bytes_ += region.length;
  OneThreadDevice::connect(std::move(memory));
}

void BalloonDevice::read_config(std::uint64_t offset, std::span<std::byte> out) const {
  std::array<std::byte, config_bytes> config;
  store_le32(&config[target_offset], target_.load());
  store_le32(&config[held_offset], held_.load());
  std::ranges::fill(out, std::byte{});
  if (offset >= config.size()) return;
  const std::size_t count = std::min(out.size(), config.size() - static_cast<std::size_t>(offset));
  std::memcpy(out.data(), config.data() + offset, count);
}

// What the driver holds is the only thing that it says here, whole.
void BalloonDevice::write_config(std::uint64_t offset, std::span<const std::byte> in) {
  if (offset == held_offset && in.size() == sizeof(std::uint32_t)) held_ = load_le32(in.data());
}

std::vector<std::byte> BalloonDevice::save() const {
  std::vector<std::byte> saved;
  Encoder out(saved);
  out.u32(target_);
  out.u32(held_);
  return saved;
}

bool BalloonDevice::restore(std::span<const std::byte> saved) {
  Decoder in(saved);
  const std::uint32_t target = in.u32(), held = in.u32();
  if (!in.ok() || !in.at_end() || target > memory_bytes_ / guest_page) return false;
  target_ = target;
  held_ = held;
  return true;
}

Result<> BalloonDevice::set_target(std::uint64_t bytes) {
  if (bytes > memory_bytes_) {
    return fail(ErrorKind::invalid_argument, "the guest is asked for {} of memory and has {}",
                format_size(bytes), format_size(memory_bytes_));
  }
  target_ = static_cast<std::uint32_t>(bytes / guest_page);
  return {};
}

BalloonFigures BalloonDevice::figures() const {
  return {target_.load() * guest_page, held_.load() * guest_page, released_};
}

bool BalloonDevice::serve(unsigned queue) {
  QueueServer& server = *this->server(queue);
  while (server.take(chain())) {
    if (queue == inflate_queue || queue == deflate_queue) {
      if (!take_pages(server, queue == inflate_queue)) return true;
    } else {
      take_report();
    }
    server.give(chain(), 0);
    server.notify();
  }
  return true;
}

bool BalloonDevice::take_pages(QueueServer& server, bool to_release) {
  const auto broken = [&](const char* why) {
    server.break_down(why);
    server.give(chain(), 0);
    server.notify();
    return false;
  };
  if (chain().readable_bytes > most_page_numbers * page_number_bytes)
    return broken("too many pages at once");
  numbers_.clear();
  for (unsigned i = 0; i < chain().readable; ++i) {
    const iovec& piece = chain().segments[i];
    const auto* const from = static_cast<const std::byte*>(piece.iov_base);
    numbers_.insert(numbers_.end(), from, from + piece.iov_len);
  }
  const auto runs = runs_of_pages(numbers_, writers().front()->memory());
  if (!runs) return broken("a page that is not in guest memory");
  if (!to_release) return true;
  for (const PageRun& run : *runs) release(run);
  return true;
}

void BalloonDevice::take_report() {
  MemoryWriter& writer = *writers().front();
  for (unsigned i = 0; i < chain().writable; ++i) {
    const iovec& piece = chain().segments[chain().readable + i];
    const PageRun run = whole_pages(
        writer.memory().address_of(static_cast<const std::byte*>(piece.iov_base)), piece.iov_len);
    if (run.length > 0) release(run);
  }
}

void BalloonDevice::release(const PageRun& run) {
  MemoryWriter& writer = *writers().front();
  std::byte* const host = writer.memory().at(run.address, run.length);
  // Out of the file, and so out of every mapping of it.
  if (::madvise(host, run.length, MADV_REMOVE) == 0) {
    released_.add(run.length);
  } else if (!std::exchange(complained_, true)) {
    log().warn("{}: memory cannot be given back: {}", name(), std::strerror(errno));
  }
  writer.wrote(run.address, run.length);
}

}  // namespace tidepool::virtio
