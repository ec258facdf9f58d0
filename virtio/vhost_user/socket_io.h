// Messages with descriptors over a Unix socket, as both ends of vhost-user send them.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/unique_fd.h"

namespace tidepool::virtio::vhost_user {

// All of `bytes`, the descriptors with the first of them. 0, or the errno.
int send_whole(int socket, std::span<const std::byte> bytes, std::span<const int> descriptors);

struct ReceivedBytes {
  std::size_t count = 0;  // fewer than asked for: the other end is gone, or there is an error
  int error = 0;          // the errno; EMSGSIZE: more descriptors came than there is room for
  std::vector<UniqueFd> descriptors;
};
// Fills `bytes`.
ReceivedBytes receive_whole(int socket, std::span<std::byte> bytes);

}  // namespace tidepool::virtio::vhost_user
