// The full feature phase of one session over its one connection (RFC 7143), error recovery
// level 0: whatever breaks the protocol ends the session.
//
// No I/O of its own: PDUs come in through receive(), in two halves so that data can be
// received where it belongs; they go out through the Wire. Commands are carried out by the
// Device; the session is their owner there. Commands and their numbers are in session.cpp, their
// data in session_data.cpp, other requests in session_requests.cpp.
//
// A command's life here:
//
//   arrived ─> held back while too much data is under way ─> at the device
//   device wants data ─> R2T, Data-Out, ... ─> device answers ─> Data-In, SCSI Response
//
// Limits: one connection a session; one R2T at a time a command; no bidirectional commands,
// no CDBs beyond 16 bytes.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "scsi/device.h"
#include "scsi/iscsi/login.h"
#include "scsi/iscsi/pdu.h"

namespace tidepool::scsi::iscsi {

// What carries a session's PDUs. Outlives it.
class Wire {
 public:
  virtual ~Wire() = default;
  virtual void send(OutPdu pdu) = 0;
  // After what has been given to send() is sent.
  virtual void close_when_sent() = 0;
  // Where the initiator reached us: ADDRESS:PORT.
  virtual std::string local_address() const = 0;
};

// The target as its sessions see it. Outlives them.
class TargetSide {
 public:
  virtual ~TargetSide() = default;
  virtual Device& device() = 0;
  // KEY=VALUE pairs that answer SendTargets=All to one who reached us at `local`.
  virtual KeyValues addresses(const std::string& local) = 0;
  virtual const std::string& name() const = 0;
  virtual void close_all_sessions() = 0;  // TARGET COLD RESET
};

struct SessionIdentity {
  std::string initiator;
  std::uint64_t isid = 0;  // 48 bits
  bool discovery = false;
  bool operator==(const SessionIdentity&) const = default;
};

// What ends a session: its initiator does not keep to the protocol.
inline std::unexpected<Error> broken(const char* what) {
  return fail(ErrorKind::invalid_argument, "{}", what);
}

// The TransportID of an iSCSI initiator port (SPC-4 7.6.4.6).
PortId transport_id(const SessionIdentity& identity);

class Session final : public TaskOwner {
 public:
  static constexpr std::uint32_t queue_depth = 128;

  Session(TargetSide& target, Wire& wire, const Login& login);
  ~Session() override;

  const SessionIdentity& identity() const { return identity_; }

  // Where the data of the PDU with this header goes: memory of exactly its length, or
  // nothing, when it is to be thrown away. An error, worded for the log, ends the session.
  struct Destination {
    DataBuffer memory;
    std::size_t offset = 0;
    bool discard = false;
  };
  Result<Destination> begin(const Header& header, std::span<const std::byte> extra_header);
  // The data, if any, is where begin() said.
  Result<> receive(const Header& header, std::span<const std::byte> data);

  void want_data(Task& task) override;
  void finished(std::unique_ptr<Task> task) override;
  void dropped(Task& task) override;

 private:
  struct Command {
    Header request;
    std::unique_ptr<Task> waiting;  // until it is given to the device
    TaskId id = 0;                  // at the device
    LogicalUnit* unit = nullptr;
    std::uint32_t expected = 0;  // ExpectedDataTransferLength, bytes
    bool reads = false, writes = false;
    DataBuffer data;              // data-out
    std::uint32_t received = 0;   // bytes of data
    std::uint32_t immediate = 0;  // bytes that came with it
    std::uint32_t transfer_tag = no_tag;
    std::uint32_t burst_end = 0;    // bytes: of the R2T under way
    std::uint32_t data_number = 0;  // DataSN expected next
    std::uint32_t r2t_number = 0;
    std::uint64_t cost = 0;  // of the session's share of memory
  };

  Result<bool> take_number(const Header& header);
  Result<Destination> begin_command(const Header& header, std::span<const std::byte> extra);
  Result<Destination> begin_data_out(const Header& header);
  Result<> receive_command(const Header& header);
  Result<> receive_data_out(const Header& header);
  Result<> receive_task_management(const Header& header);
  Result<> receive_text(const Header& header, std::span<const std::byte> data);
  Result<> receive_logout(const Header& header);
  Result<> receive_nop(const Header& header, std::span<const std::byte> data);

  void start_held();
  void start(Command& command);
  void send_r2t(Command& command);
  // Ends the command: its data came out of order.
  void fail_data_phase(std::uint32_t tag);
  void send_data_in(const Command& command, Task& task, std::uint32_t length, bool with_status);
  void send_response(const Command& command, const Task& task);
  void reject(const Header& header, RejectReason reason);
  task_management::Response manage(const Header& header, task_management::Function function);
  task_management::Response abort_command(std::uint32_t tag);
  void forget(std::unordered_map<std::uint32_t, Command>::iterator command);
  void send(OutPdu pdu, bool counts);
  std::uint32_t last_command() const;

  TargetSide& target_;
  Wire& wire_;
  const SessionIdentity identity_;
  const SessionParameters parameters_;
  const std::uint16_t connection_;
  NexusId nexus_ = 0;  // 0: a discovery session has none

  std::uint32_t status_number_;     // StatSN of the next response
  std::uint32_t expected_command_;  // ExpCmdSN
  std::uint32_t last_told_;         // MaxCmdSN: never goes back
  std::uint32_t next_transfer_tag_ = 1;
  std::unordered_map<std::uint32_t, Command> commands_;  // by initiator task tag
  std::deque<std::uint32_t> held_;                       // task tags, oldest first
  std::uint64_t under_way_ = 0;                          // bytes, sum of costs
  std::optional<bool> accepted_;                         // whether the PDU begun takes its number
  bool starting_ = false;
};

}  // namespace tidepool::scsi::iscsi
