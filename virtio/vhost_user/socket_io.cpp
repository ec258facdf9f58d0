#include "virtio/vhost_user/socket_io.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "virtio/vhost_user/message.h"

namespace tidepool::virtio::vhost_user {

namespace {

using Control = std::array<char, CMSG_SPACE(most_descriptors * sizeof(int))>;

// Whether there is something to receive, or to be told of, before then.
bool wait_readable(int socket, std::chrono::steady_clock::time_point until) {
  using std::chrono::ceil, std::chrono::milliseconds;
  for (;;) {
    const auto left = ceil<milliseconds>(until - std::chrono::steady_clock::now());
    pollfd event{.fd = socket, .events = POLLIN, .revents = 0};
    const int ready = ::poll(&event, 1, std::max(0, static_cast<int>(left.count())));
    if (ready >= 0 || errno != EINTR) return ready != 0;
  }
}

}  // namespace

int send_whole(int socket, std::span<const std::byte> bytes, std::span<const int> descriptors) {
  alignas(cmsghdr) Control control{};
  while (!bytes.empty()) {
    iovec place{const_cast<std::byte*>(bytes.data()), bytes.size()};
    msghdr message{.msg_iov = &place, .msg_iovlen = 1};
    if (!descriptors.empty()) {
      message.msg_control = control.data();
      message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
      cmsghdr* const part = CMSG_FIRSTHDR(&message);
      part->cmsg_level = SOL_SOCKET;
      part->cmsg_type = SCM_RIGHTS;
      part->cmsg_len = CMSG_LEN(descriptors.size_bytes());
      std::memcpy(CMSG_DATA(part), descriptors.data(), descriptors.size_bytes());
    }
    const ssize_t sent = ::sendmsg(socket, &message, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return errno;
    bytes = bytes.subspan(static_cast<std::size_t>(sent));
    descriptors = {};
  }
  return 0;
}

ReceivedBytes receive_whole(int socket, std::span<std::byte> bytes, Deadline until) {
  ReceivedBytes received;
  while (received.count < bytes.size()) {
    alignas(cmsghdr) Control control{};
    iovec place{bytes.data() + received.count, bytes.size() - received.count};
    msghdr message{.msg_iov = &place,
                   .msg_iovlen = 1,
                   .msg_control = control.data(),
                   .msg_controllen = control.size()};
    if (until && !wait_readable(socket, *until)) {
      received.error = ETIMEDOUT;
      return received;
    }
    const ssize_t got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) received.error = errno;
    if (got <= 0) return received;
    received.count += static_cast<std::size_t>(got);
    for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
         part = CMSG_NXTHDR(&message, part)) {
      if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
      const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (std::size_t i = 0; i < count; ++i) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
        received.descriptors.emplace_back(fd);
      }
    }
    if ((message.msg_flags & MSG_CTRUNC) != 0 || received.descriptors.size() > most_descriptors) {
      received.error = EMSGSIZE;
      return received;
    }
  }
  return received;
}

}  // namespace tidepool::virtio::vhost_user
