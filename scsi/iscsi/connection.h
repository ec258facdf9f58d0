// One TCP connection: frames PDUs, checks and makes digests, feeds login and then session.
//
// Data goes from the socket to the command's memory without another copy, but for what came
// with the bytes before it. Owned by the Target; ends by itself, when the peer closes, when
// the protocol is broken, or when it is told to.
#pragma once

#include <array>
#include <chrono>
#include <deque>
#include <memory>
#include <vector>

#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "scsi/iscsi/login.h"
#include "scsi/iscsi/session.h"

namespace tidepool::scsi::iscsi {

class Connection;

// Who keeps connections. Outlives them.
class ConnectionOwner {
 public:
  virtual ~ConnectionOwner() = default;
  virtual const LoginPolicy& policy() = 0;
  virtual TargetSide& target_side() = 0;
  virtual std::uint16_t new_session_handle() = 0;
  // The login is through: ends the session that this one replaces.
  virtual void logged_in(Connection& connection, const SessionIdentity& identity) = 0;
  // May be freed now; not by this call.
  virtual void ended(Connection& connection) = 0;
};

class Connection final : public Wire {
 public:
  Connection(EventLoop& loop, ConnectionOwner& owner, UniqueFd socket, std::string peer);
  ~Connection() override;

  void start();
  void end();          // at once; ended() follows
  void end_session();  // aborts its tasks now; then end()
  bool logging_in() const { return session_ == nullptr && !ending_; }
  std::chrono::steady_clock::time_point began() const { return began_; }
  const Session* session() const { return session_.get(); }
  int socket() const { return socket_.get(); }
  const std::string& peer() const { return peer_; }

  void send(OutPdu pdu) override;
  void close_when_sent() override;
  std::string local_address() const override;

 private:
  struct Slot : Operation {
    Connection* connection = nullptr;
  };
  struct Outgoing {
    OutPdu pdu;
    std::array<std::byte, header_bytes + digest_bytes> header{};
    std::size_t header_size = header_bytes;
    std::array<std::byte, 3 + digest_bytes> trailer{};
    std::size_t trailer_size = 0;
    std::size_t size() const { return header_size + pdu.data().size() + trailer_size; }
  };

  void receive_more();
  void received(int result);
  void process();
  bool take_header();
  bool take_data();
  Result<> begin_pdu();
  Result<> finish_pdu();
  Result<> answer_login(std::span<const std::byte> text);
  void broken(const Error& error);
  void flush();
  void sent(int result);
  void settle_end();

  EventLoop& loop_;
  ConnectionOwner& owner_;
  const UniqueFd socket_;
  const std::string peer_;
  const std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();

  std::unique_ptr<Login> login_;
  std::unique_ptr<Session> session_;
  bool header_digest_ = false, data_digest_ = false;

  Slot receiving_slot_, sending_slot_;
  bool receiving_ = false, sending_ = false, ending_ = false, told_ = false;
  bool close_when_sent_ = false, processing_ = false;
  msghdr receive_message_{}, send_message_{};
  std::array<iovec, 2> receive_buffers_{};
  std::array<iovec, 48> send_buffers_{};

  // What has come and is not taken yet: [begin_, end_).
  std::vector<std::byte> stream_;
  std::size_t begin_ = 0, end_ = 0;
  // The PDU under way.
  bool in_data_ = false;
  Header header_;
  std::vector<std::byte> extra_header_;
  Session::Destination destination_;
  std::size_t data_received_ = 0;  // bytes
  std::array<std::byte, 3 + digest_bytes> trailer_{};
  std::size_t trailer_size_ = 0, trailer_received_ = 0;
  std::vector<std::byte> thrown_away_;

  std::deque<Outgoing> queue_;
  std::size_t sent_ = 0;  // bytes of the first in the queue
};

}  // namespace tidepool::scsi::iscsi
