#include "virtio/net_device.h"

#include <linux/virtio_ids.h>
#include <poll.h>
#include <unistd.h>

#include "virtio/config_space.h"
#include "virtio/net_features.h"

namespace tidepool::virtio {

namespace {

constexpr unsigned burst = 64;  // packets, before the other queue has its turn

}  // namespace

NetDevice::NetDevice(std::unique_ptr<PacketPort> port, const MacAddress& address)
    : OneThreadDevice("net " + port->name(), 2, queue_entries),
      port_(std::move(port)),
      address_(address),
      packet_(most_packet_bytes) {
  readable_.device = this;
  readable_.on_complete = [](Operation& self, int, unsigned) {
    NetDevice& device = *static_cast<Readable&>(self).device;
    device.waiting_ = false;
    if (QueueServer* const server = device.server(receive_queue)) server->more();
  };
}

Result<std::unique_ptr<NetDevice>> NetDevice::create(std::unique_ptr<PacketPort> port,
                                                     const MacAddress& address) {
  std::unique_ptr<NetDevice> device(new NetDevice(std::move(port), address));
  if (auto started = device->start_thread(); !started) return std::unexpected(started.error());
  return device;
}

std::uint32_t NetDevice::id() const { return VIRTIO_ID_NET; }

std::uint64_t NetDevice::features() const {
  return ring_features | net::packet_features | net::card_features;
}

void NetDevice::read_config(std::uint64_t offset, std::span<std::byte> out) const {
  copy_config(net::config_of(address_), offset, out);
}

Result<> NetDevice::start(DeviceStart start) {
  const auto has = [&](unsigned number) { return (start.features & net::bit(number)) != 0; };
  if ((start.features & feature_version_1) == 0) {
    return fail(ErrorKind::unsupported, "{}: its driver is older than version 1", name());
  }
  const PacketOffloads offloads{has(net::guest_checksum), has(net::guest_tso4),
                                has(net::guest_tso6), has(net::guest_ecn)};
  if (auto set = port_->set_offloads(offloads); !set) return set;
  const bool mergeable = has(net::mergeable_buffers);
  call([&] {
    mergeable_ = mergeable;
    packet_bytes_ = 0;  // one that waited was for another start of the driver
  });
  return OneThreadDevice::start(std::move(start));
}

bool NetDevice::serve(unsigned queue) {
  QueueServer& server = *this->server(queue);
  if (queue == receive_queue) return receive(server);
  return transmit(server);
}

// Kicks are wanted only while buffers are; else the port's packets are waited for.
bool NetDevice::receive(QueueServer& server) {
  for (unsigned count = 0; count < burst; ++count) {
    if (packet_bytes_ == 0 && !read_packet()) break;
    const Placed placed = placer_.place(server, *writers().front(),
                                        std::span(packet_).first(packet_bytes_), mergeable_);
    if (placed == Placed::waits) return true;
    packet_bytes_ = 0;
    if (placed == Placed::broken) {
      server.break_down("a receive buffer without room for a packet's header");
      return true;
    }
    if (placed == Placed::yes) server.notify();
  }
  wait_for_packet();
  return false;
}

void NetDevice::wait_for_packet() {
  if (waiting_) return;
  waiting_ = true;
  io_uring_prep_poll_add(loop().prepare(readable_), port_->descriptor(), POLLIN);
}

bool NetDevice::read_packet() {
  const ssize_t got = ::read(port_->descriptor(), packet_.data(), packet_.size());
  if (got <= static_cast<ssize_t>(packet_header_bytes)) return false;
  packet_bytes_ = static_cast<std::size_t>(got);
  return true;
}

bool NetDevice::transmit(QueueServer& server) {
  for (unsigned count = 0; count < burst; ++count) {
    if (!server.take(chain())) return true;
    if (chain().readable_bytes > packet_header_bytes) {
      // One that the port refuses is lost, as on a wire.
      [[maybe_unused]] const auto sent = ::writev(port_->descriptor(), chain().segments.data(),
                                                  static_cast<int>(chain().readable));
    }
    server.give(chain(), 0);
    server.notify();
  }
  loop().post([this] {
    if (QueueServer* const again = this->server(transmit_queue)) again->more();
  });
  return false;
}

}  // namespace tidepool::virtio
