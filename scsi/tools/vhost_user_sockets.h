// A SCSI device on vhost-user-scsi sockets, for virtual machines.
//
// Each front end that connects is served by a thread of its own until it goes: its
// messages; its queues are served on the device's loop. It is an initiator port whose name
// is made of the socket's path and of the lowest number that no other front end of this
// socket has: the only one of a socket is the same initiator each time.
//
// Front ends are not trusted: their memory must be sealed against shrinking, their messages
// are checked. Who may connect is who may write to the socket: its owner.
//
// Limits: a socket's path has at most 107 bytes; 64 front ends a socket.
#pragma once

#include <list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "scsi/device.h"
#include "virtio/scsi_device.h"

namespace tidepool::scsi::tools {

class VhostUserSockets {
 public:
  // Loop and device outlive it. All on the loop's thread.
  // host: its name where initiators of several are told apart; else empty.
  VhostUserSockets(EventLoop& loop, Device& device, std::string host)
      : loop_(loop), device_(device), host_(std::move(host)) {}
  ~VhostUserSockets();  // stop(), and idle(), before, if it was started
  VhostUserSockets(const VhostUserSockets&) = delete;
  VhostUserSockets& operator=(const VhostUserSockets&) = delete;

  // Makes the socket; one that nobody listens on is replaced. Front ends wait until start().
  Result<> listen(const std::string& path);
  void start();
  // Ends listening, the connections and what they had under way.
  void stop();
  bool idle() const;

 private:
  struct Listener : Operation {
    VhostUserSockets* sockets = nullptr;
    std::string path;
    UniqueFd socket;
    bool accepting = false;
  };
  struct Connection {
    Listener* listener = nullptr;
    unsigned number = 0;                   // of its socket's front ends
    UniqueFd socket;                       // the same that the back end has: to end it
    virtio::ScsiDevice* device = nullptr;  // while it is served
    std::thread thread;
  };
  void accept(Listener& listener);
  void accepted(Listener& listener, int result);
  unsigned free_number(const Listener& listener) const;
  // On the connection's thread.
  void serve(Connection& connection, UniqueFd socket);

  EventLoop& loop_;
  Device& device_;
  const std::string host_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::list<Connection> connections_;
  bool stopping_ = false;
};

}  // namespace tidepool::scsi::tools
