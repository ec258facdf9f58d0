// A virtio device served to a foreign front end, such as QEMU, over a Unix socket.
//
// One connection, on the calling thread: serve() handles messages until the front end
// goes. The device's queues are served by its own threads, in the front end's memory.
// Whatever changes while queues are active makes the device quiet, and starts it again
// with what is active then, from where it was.
//
// The front end is trusted with its guest's memory, and no more: its messages are
// checked. One that shortens a memory file that it gave ends the process; so who serves
// strangers takes only files that cannot be shortened.
//
// A back end that is started again is told by the front end what the one before it had
// taken and not answered (the in-flight region), and serves that first.
//
// Limits: no dirty log, no polled queues (a kick descriptor is needed): these features are
// not offered.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "virtio/device.h"
#include "virtio/inflight_notes.h"
#include "virtio/vhost_user/message.h"

namespace tidepool::virtio::vhost_user {

struct BackEndOptions {
  // Guest memory must be in memory files (memfd_create(2)) sealed with F_SEAL_SHRINK.
  bool sealed_memory_only = false;
  // What the device has answered outlives the process, so that another one may take its
  // place: then the front end is offered to keep what is in flight.
  bool replaceable = false;
  // For tests that must go red: a new call descriptor is not told what the old one was.
  bool silent_new_calls = false;
};

class BackEnd {
 public:
  // The device outlives it, and is its alone.
  BackEnd(Device& device, UniqueFd connection, BackEndOptions options);
  ~BackEnd();
  BackEnd(const BackEnd&) = delete;
  BackEnd& operator=(const BackEnd&) = delete;

  // Until the front end closes the connection, or breaks the protocol: an error.
  Result<> serve();

 private:
  struct Mapping;
  struct CallInterrupt;
  struct Vring {
    std::uint32_t size = 0;
    std::optional<VringAddresses> addresses;
    std::uint16_t base = 0;
    bool enabled = false;
    UniqueFd kick, call;
    std::unique_ptr<CallInterrupt> interrupt;  // while the queue is started
    bool started = false;
    std::optional<InflightNotes> notes;  // in inflight_memory_
  };
  struct Received {
    Header header;
    std::vector<std::byte> payload;
    std::vector<UniqueFd> descriptors;
  };
  Result<std::optional<Received>> receive();
  Result<> send(std::span<const std::byte> bytes, std::span<const int> descriptors = {});
  // true: an answer went out.
  Result<bool> handle(Received& message);
  Result<> handle_setting(Received& message);
  Result<> handle_vring(Received& message);
  Result<> map_memory(Received& message);
  Result<> make_inflight(const Received& message);
  Result<> take_inflight(Received& message);
  std::unexpected<Error> wrong(const Received& message, const char* what) const;
  Vring* vring(std::uint32_t index);

  // The device is quiet after stop(); start() starts what is active.
  void stop();
  Result<> start();
  Result<std::optional<QueueStart>> queue_start(Vring& vring);  // nothing: it is not active
  std::optional<std::uint64_t> guest_address(std::uint64_t front_end) const;

  Device& device_;
  const UniqueFd connection_;
  const BackEndOptions options_;
  std::uint64_t features_ = 0, protocol_features_ = 0;
  std::vector<std::unique_ptr<Mapping>> mappings_;
  std::shared_ptr<const GuestMemory> memory_;
  std::unique_ptr<Mapping> inflight_memory_;
  Inflight inflight_;
  std::vector<Vring> vrings_;
  bool started_ = false;
};

}  // namespace tidepool::virtio::vhost_user
