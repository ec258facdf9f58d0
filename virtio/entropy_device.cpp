#include "virtio/entropy_device.h"

#include <linux/virtio_ids.h>
#include <sys/random.h>

#include <algorithm>

namespace tidepool::virtio {

Result<std::unique_ptr<EntropyDevice>> EntropyDevice::create() {
  std::unique_ptr<EntropyDevice> device(new EntropyDevice);
  if (auto started = device->start_thread(); !started) return std::unexpected(started.error());
  return device;
}

std::uint32_t EntropyDevice::id() const { return VIRTIO_ID_RNG; }

bool EntropyDevice::serve(unsigned queue) {
  QueueServer& server = *this->server(queue);
  while (server.take(chain())) {
    std::uint32_t written = 0;
    for (unsigned i = 0; i < chain().writable && written < most_entropy; ++i) {
      const iovec& piece = chain().segments[chain().readable + i];
      const std::size_t wanted = std::min<std::size_t>(piece.iov_len, most_entropy - written);
      const ssize_t got = ::getrandom(piece.iov_base, wanted, 0);
      if (got > 0) written += static_cast<std::uint32_t>(got);
      if (got != static_cast<ssize_t>(wanted)) break;
    }
    server.give(chain(), written);
    server.notify();
  }
  return true;
}

}  // namespace tidepool::virtio
