// A virtio network device (Virtual I/O Device 1.2, section 5.1) whose other end is a
// packet port: one pair of queues, checksum and segmentation left to who is better at it,
// mergeable receive buffers.
//
// A packet to the driver is put into as many of its buffers as it needs, all of them
// given at once. If there are too few, it waits for more, and the port keeps those behind
// it. One that the driver's only buffer is too small for is dropped; so is one that the
// port does not take.
//
// The driver's headers are checked by the port's kernel, which copies them first.
//
// Saved, it is its address and its queues: packets that were on their way are lost, as on
// a wire. Its port must be one that another process can take up.
//
// Limits: no control queue, so no filters and one pair of queues; received packets are
// copied once on their way.
#pragma once

#include <memory>
#include <vector>

#include "virtio/mac_address.h"
#include "virtio/one_thread_device.h"
#include "virtio/packet_placer.h"
#include "virtio/packet_port.h"

namespace tidepool::virtio {

class NetDevice final : public OneThreadDevice {
 public:
  static Result<std::unique_ptr<NetDevice>> create(std::unique_ptr<PacketPort> port,
                                                   const MacAddress& address);
  ~NetDevice() override { stop_thread(); }

  std::uint32_t id() const override;
  std::uint64_t features() const override;
  bool can_be_saved() const override { return true; }
  void read_config(std::uint64_t offset, std::span<std::byte> out) const override;
  Result<> start(DeviceStart start) override;

 private:
  struct Readable : Operation {
    NetDevice* device = nullptr;
  };
  NetDevice(std::unique_ptr<PacketPort> port, const MacAddress& address);
  bool serve(unsigned queue) override;

  // All on the thread. true: there are too few buffers for the packet that waits.
  bool receive(QueueServer& server);
  bool read_packet();
  void wait_for_packet();
  bool transmit(QueueServer& server);

  static constexpr std::uint16_t queue_entries = 256;
  static constexpr unsigned receive_queue = 0, transmit_queue = 1;

  const std::unique_ptr<PacketPort> port_;
  const MacAddress address_;
  // The thread's.
  bool mergeable_ = false;
  Readable readable_;
  bool waiting_ = false;           // for the port, in the kernel's hands
  std::vector<std::byte> packet_;  // most_packet_bytes of room
  std::size_t packet_bytes_ = 0;   // 0: none waits
  PacketPlacer placer_;
};

}  // namespace tidepool::virtio
