// Where a network device's packets go to and come from: a tap interface, or in tests a
// socket.
//
// A packet has the 12 bytes of virtio's header in front of it, as Linux's tap has them
// when it is told so: partial checksums and large segments pass through unchanged.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"

namespace tidepool::virtio {

inline constexpr std::size_t packet_header_bytes = 12;
// The header and the largest segment that is passed on whole.
inline constexpr std::size_t most_packet_bytes = packet_header_bytes + 65550;

// What may be left to the receiver of a packet.
struct PacketOffloads {
  bool checksum = false, tcp4 = false, tcp6 = false, congestion = false;
};

class PacketPort {
 public:
  virtual ~PacketPort() = default;
  virtual const std::string& name() const = 0;  // for messages
  // Does not block, and is readable when there is a packet; lives as long as the port.
  virtual int descriptor() const = 0;
  // What packets that come from here may leave to us from now on.
  virtual Result<> set_offloads(const PacketOffloads& offloads) = 0;
};

}  // namespace tidepool::virtio
