#include "virtio/console_device.h"

#include <linux/virtio_ids.h>

#include <algorithm>
#include <cstring>

namespace tidepool::virtio {

namespace {
constexpr unsigned receive_queue = 0;
}

Result<std::unique_ptr<ConsoleDevice>> ConsoleDevice::create(
    std::function<void(std::span<const iovec>)> output) {
  std::unique_ptr<ConsoleDevice> device(new ConsoleDevice(std::move(output)));
  if (auto started = device->start_thread(); !started) return std::unexpected(started.error());
  return device;
}

std::uint32_t ConsoleDevice::id() const { return VIRTIO_ID_CONSOLE; }

void ConsoleDevice::type(std::string bytes) {
  loop().post([this, bytes = std::move(bytes)] {
    typed_.append(bytes, 0, std::min(bytes.size(), most_typed - typed_.size()));
    if (QueueServer* const server = this->server(receive_queue)) server->more();
  });
}

std::vector<std::byte> ConsoleDevice::save() const {
  std::vector<std::byte> saved;
  call([&] {
    const auto waiting = std::as_bytes(std::span(typed_));
    saved.assign(waiting.begin(), waiting.end());
  });
  return saved;
}

bool ConsoleDevice::restore(std::span<const std::byte> saved) {
  if (saved.size() > most_typed) return false;
  call([&] { typed_.assign(reinterpret_cast<const char*>(saved.data()), saved.size()); });
  return true;
}

bool ConsoleDevice::serve(unsigned queue) {
  QueueServer& server = *this->server(queue);
  if (queue == receive_queue) return receive(server);
  transmit(server);
  return true;
}

// Room is taken only for what was typed.
bool ConsoleDevice::receive(QueueServer& server) {
  while (!typed_.empty() && server.take(chain())) {
    std::size_t done = 0;
    for (unsigned i = 0; i < chain().writable; ++i) {
      const iovec& piece = chain().segments[chain().readable + i];
      const std::size_t count = std::min(piece.iov_len, typed_.size() - done);
      std::memcpy(piece.iov_base, typed_.data() + done, count);
      done += count;
    }
    typed_.erase(0, done);
    server.give(chain(), static_cast<std::uint32_t>(done));
    server.notify();
  }
  return !typed_.empty();
}

void ConsoleDevice::transmit(QueueServer& server) {
  while (server.take(chain())) {
    output_({chain().segments.data(), chain().readable});
    server.give(chain(), 0);
    server.notify();
  }
}

}  // namespace tidepool::virtio
