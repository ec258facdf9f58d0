// The login phase (RFC 7143, 6.3), as a state machine without I/O.
//
//   security ──> operational ──> full feature
//       └───────────────────────────^
//
// Security: AuthMethod; where accounts are set, CHAP: algorithm, challenge, response.
// Each request gets one reply; a reply with a status other than success ends the connection.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "scsi/iscsi/chap.h"
#include "scsi/iscsi/negotiation.h"
#include "scsi/iscsi/pdu.h"
#include "scsi/iscsi/text.h"

namespace tidepool::scsi::iscsi {

enum class LoginStatus : std::uint16_t {
  success = 0x0000,
  initiator_error = 0x0200,
  authentication_failure = 0x0201,
  target_not_found = 0x0203,
  unsupported_version = 0x0205,
  too_many_connections = 0x0206,
  missing_parameter = 0x0207,
  session_type_not_supported = 0x0209,
  no_such_session = 0x020a,
  invalid_during_login = 0x020b,
  out_of_resources = 0x0302,
};

// What the target is. Outlives its logins.
struct LoginPolicy {
  std::string target_name;
  std::uint16_t portal_group = 1;
  Accounts accounts;
};

struct LoginReply {
  Header header;
  std::vector<std::byte> text;
  LoginStatus status = LoginStatus::success;
  bool finished = false;  // full feature phase
};

class Login {
 public:
  // tsih: the handle that a new session gets. challenge: random; its first byte identifies it.
  Login(const LoginPolicy& policy, std::uint16_t tsih, std::vector<std::byte> challenge);

  LoginReply answer(const Header& request, std::span<const std::byte> text);

  // Of a login that is finished.
  bool discovery() const { return discovery_; }
  const std::string& initiator() const { return initiator_; }  // in small letters
  std::uint64_t isid() const { return isid_; }                 // 48 bits
  const SessionParameters& parameters() const { return parameters_; }
  std::uint32_t next_status_number() const { return status_number_; }
  std::uint32_t expected_command() const { return expected_command_; }
  std::uint16_t connection() const { return connection_; }
  std::uint16_t tsih() const { return tsih_; }

 private:
  enum class Stage : std::uint8_t { security = 0, operational = 1, full_feature = 3 };
  enum class Chap : std::uint8_t { not_begun, method_chosen, challenged, passed };

  std::optional<LoginStatus> check_header(const Header& request);
  LoginStatus take_names(const KeyValues& pairs);
  LoginStatus take_security(const KeyValues& pairs, KeyValues& answers);
  LoginStatus take_chap(const KeyValues& pairs, KeyValues& answers);
  LoginStatus check_response(const KeyValues& pairs, KeyValues& answers);
  LoginStatus take_operational(const KeyValues& pairs, KeyValues& answers);
  LoginStatus take(KeyValues& answers);
  LoginReply reply(const Header& request, LoginStatus status, const KeyValues& answers,
                   bool transit);
  bool may_leave_security() const;

  const LoginPolicy& policy_;
  const std::uint16_t tsih_;
  const std::vector<std::byte> challenge_;

  bool begun_ = false;
  bool named_ = false;
  bool group_told_ = false, length_told_ = false;
  Stage stage_ = Stage::security;
  Chap chap_ = Chap::not_begun;
  ChapAlgorithm algorithm_ = ChapAlgorithm::md5;
  bool discovery_ = false;
  std::string initiator_;
  std::uint64_t isid_ = 0;
  std::uint16_t connection_ = 0;
  std::uint32_t status_number_ = 0;
  std::uint32_t expected_command_ = 0;
  std::uint32_t task_tag_ = 0;
  std::vector<std::byte> collected_;  // text of requests that go on in the next
  std::vector<std::string> seen_;     // keys that were negotiated
  SessionParameters parameters_;
};

}  // namespace tidepool::scsi::iscsi
