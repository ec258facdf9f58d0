// Messages with descriptors over a Unix socket, as both ends of vhost-user send them.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "base/unique_fd.h"

namespace tidepool::virtio::vhost_user {

// All of `bytes`, the descriptors with the first of them. 0, or the errno.
int send_whole(int socket, std::span<const std::byte> bytes, std::span<const int> descriptors);

struct ReceivedBytes {
  std::size_t count = 0;  // fewer than asked for: the other end is gone, or there is an error
  // The errno; EMSGSIZE: more descriptors came than there is room for; ETIMEDOUT: too late.
  int error = 0;
  std::vector<UniqueFd> descriptors;
};
// Fills `bytes`, if they come until then.
using Deadline = std::optional<std::chrono::steady_clock::time_point>;
ReceivedBytes receive_whole(int socket, std::span<std::byte> bytes, Deadline until = {});

}  // namespace tidepool::virtio::vhost_user
