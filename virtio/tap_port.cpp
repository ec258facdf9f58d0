#include "virtio/tap_port.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>

namespace tidepool::virtio {

Result<std::unique_ptr<TapPort>> TapPort::open(const std::string& interface) {
  ifreq request{};
  if (interface.empty() || interface.size() >= sizeof request.ifr_name) {
    return fail(ErrorKind::invalid_argument, "tap interface '{}': a name has 1 to {} characters",
                interface, sizeof request.ifr_name - 1);
  }
  UniqueFd tap(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!tap) return fail_errno(errno, "cannot open /dev/net/tun, which tap interfaces need");
  std::memcpy(request.ifr_name, interface.data(), interface.size());
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  if (::ioctl(tap.get(), TUNSETIFF, &request) != 0) {
    return fail_errno(errno, fmt::format("cannot open the tap interface '{}'", interface));
  }
  int header = packet_header_bytes;
  int little_endian = 1;
  if (::ioctl(tap.get(), TUNSETVNETHDRSZ, &header) != 0 ||
      ::ioctl(tap.get(), TUNSETVNETLE, &little_endian) != 0) {
    return fail_errno(
        errno, fmt::format("tap interface '{}': cannot have virtio's packet header", interface));
  }
  return std::unique_ptr<TapPort>(new TapPort("tap " + interface, std::move(tap)));
}

Result<> TapPort::set_offloads(const PacketOffloads& offloads) {
  unsigned flags = 0;
  if (offloads.checksum) {
    flags |= TUN_F_CSUM;
    if (offloads.tcp4) flags |= TUN_F_TSO4;
    if (offloads.tcp6) flags |= TUN_F_TSO6;
    if (offloads.congestion && (offloads.tcp4 || offloads.tcp6)) flags |= TUN_F_TSO_ECN;
  }
  if (::ioctl(descriptor_.get(), TUNSETOFFLOAD, flags) != 0) {
    return fail_errno(errno, fmt::format("{}: cannot set what packets leave undone", name_));
  }
  return {};
}

}  // namespace tidepool::virtio
