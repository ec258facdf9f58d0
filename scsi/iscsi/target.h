// An iSCSI target: its portals, their connections and sessions, over one Device.
//
// Runs on one event loop. Limits: one target with one portal group; sessions of one
// connection each; a login has 15 seconds.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "scsi/device.h"
#include "scsi/iscsi/connection.h"

namespace tidepool::scsi::iscsi {

struct PortalAddress {
  std::string host;  // a numeric address; IPv6 without brackets
  std::uint16_t port = 3260;
};
// "127.0.0.1:3260", "[::1]:3260", either without a port.
Result<PortalAddress> parse_portal(const std::string& text);

class Target final : public TargetSide, public ConnectionOwner {
 public:
  static constexpr std::size_t most_connections = 256;
  static constexpr std::size_t most_portals = 16;

  // Loop and device outlive it.
  Target(EventLoop& loop, Device& device, LoginPolicy policy);
  ~Target() override;  // idle() before

  // Listens when it returns.
  Result<> listen(const PortalAddress& address);
  void start();
  // Ends listening, sessions and what they had under way.
  void stop();
  // Nothing is in the kernel's hands any more.
  bool idle() const;
  // Where it listens, as initiators may dial it.
  std::vector<std::string> portals() const;

  Device& device() override { return device_; }
  KeyValues addresses(const std::string& local) override;
  const std::string& name() const override { return policy_.target_name; }
  void close_all_sessions() override;

  const LoginPolicy& policy() override { return policy_; }
  TargetSide& target_side() override { return *this; }
  std::uint16_t new_session_handle() override;
  void logged_in(Connection& connection, const SessionIdentity& identity) override;
  void ended(Connection& connection) override;

 private:
  struct Listener : Operation {
    Target* target = nullptr;
    UniqueFd socket;
    bool accepting = false;
  };
  struct Timer : Operation {
    Target* target = nullptr;
    bool armed = false;
  };

  void accept(Listener& listener);
  void accepted(Listener& listener, int result);
  void arm_timer();
  void timer_fired();

  EventLoop& loop_;
  Device& device_;
  const LoginPolicy policy_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::vector<std::unique_ptr<Connection>> connections_;
  Timer timer_, removal_;
  __kernel_timespec interval_{.tv_sec = 1, .tv_nsec = 0};
  std::uint16_t last_handle_ = 0;
  bool stopping_ = false;
};

}  // namespace tidepool::scsi::iscsi
