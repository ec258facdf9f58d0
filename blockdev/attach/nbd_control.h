// The kernel's NBD client, asked by its generic netlink family "nbd"
// (linux/nbd-netlink.h): attach sockets as a device, replace dead ones, detach.
//
// The kernel takes each socket as it is, after the handshake, and holds it beside
// the caller, who keeps its descriptor.
//
// Limits: blocking; one thread at a time; needs CAP_SYS_ADMIN.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

struct nl_sock;

namespace tidepool::blockdev::attach {

struct DeviceSettings {
  std::optional<std::uint32_t> index;  // N of /dev/nbdN; none: the kernel picks
  std::uint64_t size = 0;              // bytes, a multiple of the block size
  std::uint32_t block_size = 512;      // bytes, a power of two from 512 to a page
  std::uint64_t server_flags = 0;      // NBD_FLAG_* of the export
  std::uint32_t timeout = 0;           // seconds until an unanswered request is sent again
  std::uint32_t dead_timeout = 0;      // seconds that I/O waits for a new connection
  std::string backend;                 // tells this attachment from any other
};

class NbdControl {
 public:
  // unsupported: the kernel has no NBD client, or its module is not loaded.
  static Result<NbdControl> open();

  // The index of the new device. busy: it is in use; permission: not root.
  Result<std::uint32_t> connect(const DeviceSettings& settings, std::span<const int> sockets);

  // Puts the sockets in the place of dead ones. There may be fewer of these than
  // sockets: the kernel does not tell (see Connection::is_adopted()). An error if the
  // device is not attached, or not with this `backend`.
  Result<> replace(std::uint32_t index, const std::string& backend, std::span<const int> sockets);

  // Sends the servers a goodbye; requests that are under way fail. A device that is
  // still open is free when it is closed.
  Result<> disconnect(std::uint32_t index);

  struct Device {
    std::uint32_t index;
    bool connected;  // or still open by somebody
  };
  Result<std::vector<Device>> status();

 private:
  struct Close {
    void operator()(nl_sock* socket) const;
  };
  NbdControl(std::unique_ptr<nl_sock, Close> socket, int family)
      : socket_(std::move(socket)), family_(family) {}

  std::unique_ptr<nl_sock, Close> socket_;
  int family_;
};

std::string device_path(std::uint32_t index);                   // "/dev/nbd3"
Result<std::uint32_t> device_index(const std::string& device);  // of "/dev/nbd3" or "nbd3"

// The `backend` of the device that is attached now; empty: none, or by others.
std::string attached_backend(std::uint32_t index);

}  // namespace tidepool::blockdev::attach
