// A device's configuration, as a driver reads it: from any offset, and zeros beyond its end.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace tidepool::virtio {

inline void copy_config(std::span<const std::byte> config, std::uint64_t offset,
                        std::span<std::byte> out) {
  config = config.subspan(static_cast<std::size_t>(std::min<std::uint64_t>(offset, config.size())));
  const std::size_t count = std::min(out.size(), config.size());
  std::ranges::fill(std::ranges::copy(config.first(count), out.begin()).out, out.end(),
                    std::byte{});
}

}  // namespace tidepool::virtio
