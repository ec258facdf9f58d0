#include "scsi/iscsi/login.h"

#include <algorithm>

namespace tidepool::scsi::iscsi {

namespace {

constexpr std::size_t most_text = 64 * 1024;  // bytes of one request, over all its PDUs
constexpr std::uint8_t transit_bit = 0x80, continue_bit = 0x40;

std::uint8_t current_stage(const Header& request) { return request.u8(1) >> 2 & 0x03; }
std::uint8_t next_stage(const Header& request) { return request.u8(1) & 0x03; }

bool valid_name(const std::string& name) {
  return !name.empty() && name.size() <= 223 &&
         std::ranges::all_of(name, [](unsigned char c) { return c > ' ' && c != 0x7f; });
}

// Names are compared without regard to case.
std::string in_small_letters(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + ('a' - 'A'));
  return text;
}

bool one_of(std::string_view value, std::string_view list) {
  const auto values = split_list(list);
  return std::ranges::find(values, value) != values.end();
}

}  // namespace

Login::Login(const LoginPolicy& policy, std::uint16_t tsih, std::vector<std::byte> challenge)
    : policy_(policy), tsih_(tsih), challenge_(std::move(challenge)) {}

bool Login::may_leave_security() const {
  return policy_.accounts.initiators.empty() || chap_ == Chap::passed;
}

std::optional<LoginStatus> Login::check_header(const Header& request) {
  if (request.opcode() != Opcode::login) return LoginStatus::invalid_during_login;
  const bool transit = (request.u8(1) & transit_bit) != 0;
  const bool goes_on = (request.u8(1) & continue_bit) != 0;
  if (request.u8(3) != 0) return LoginStatus::unsupported_version;  // VersionMin
  if (transit && goes_on) return LoginStatus::initiator_error;
  if (!begun_) {
    begun_ = true;
    isid_ = request.u64(8) >> 16;
    connection_ = request.u16(20);
    expected_command_ = request.command_number();
    status_number_ = request.u32(28);  // the initiator's ExpStatSN
    task_tag_ = request.task_tag();
    if (request.u16(14) != 0) return LoginStatus::no_such_session;  // TSIH: a second connection
    const std::uint8_t stage = current_stage(request);
    if (stage > 1) return LoginStatus::initiator_error;
    stage_ = static_cast<Stage>(stage);
  } else if (isid_ != request.u64(8) >> 16 || connection_ != request.u16(20) ||
             task_tag_ != request.task_tag()) {
    return LoginStatus::initiator_error;
  }
  if (current_stage(request) != static_cast<std::uint8_t>(stage_))
    return LoginStatus::initiator_error;
  if (transit) {
    const std::uint8_t next = next_stage(request);
    if (next <= current_stage(request) || next == 2) return LoginStatus::initiator_error;
  }
  return std::nullopt;
}

LoginReply Login::answer(const Header& request, std::span<const std::byte> text) {
  if (const auto wrong = check_header(request)) return reply(request, *wrong, {}, false);
  if (collected_.size() + text.size() > most_text)
    return reply(request, LoginStatus::initiator_error, {}, false);
  collected_.insert(collected_.end(), text.begin(), text.end());
  if ((request.u8(1) & continue_bit) != 0) return reply(request, LoginStatus::success, {}, false);

  KeyValues answers;
  const LoginStatus status = take(answers);
  collected_.clear();
  if (status != LoginStatus::success) return reply(request, status, {}, false);
  bool transit = (request.u8(1) & transit_bit) != 0;
  if (transit && stage_ == Stage::security && !may_leave_security()) transit = false;
  return reply(request, status, answers, transit);
}

LoginStatus Login::take(KeyValues& answers) {
  const auto pairs = parse_text(collected_);
  if (!pairs) return LoginStatus::initiator_error;
  if (!named_) {
    if (const auto status = take_names(*pairs); status != LoginStatus::success) return status;
    named_ = true;
  }
  if (stage_ == Stage::security) {
    const auto status = take_security(*pairs, answers);
    if (status != LoginStatus::success) return status;
  } else if (!may_leave_security()) {
    return LoginStatus::authentication_failure;
  }
  return take_operational(*pairs, answers);
}

LoginStatus Login::take_names(const KeyValues& pairs) {
  const std::string* const initiator = find_value(pairs, "InitiatorName");
  if (initiator == nullptr) return LoginStatus::missing_parameter;
  if (!valid_name(*initiator)) return LoginStatus::initiator_error;
  initiator_ = in_small_letters(*initiator);
  const std::string* const type = find_value(pairs, "SessionType");
  if (type != nullptr && *type != "Normal" && *type != "Discovery")
    return LoginStatus::session_type_not_supported;
  discovery_ = type != nullptr && *type == "Discovery";
  const std::string* const target = find_value(pairs, "TargetName");
  if (target == nullptr) return discovery_ ? LoginStatus::success : LoginStatus::missing_parameter;
  if (in_small_letters(*target) != in_small_letters(policy_.target_name))
    return LoginStatus::target_not_found;
  return LoginStatus::success;
}

LoginStatus Login::take_security(const KeyValues& pairs, KeyValues& answers) {
  const bool needed = !policy_.accounts.initiators.empty();
  if (const std::string* const methods = find_value(pairs, "AuthMethod")) {
    if (chap_ != Chap::not_begun) return LoginStatus::initiator_error;
    const char* const wanted = needed ? "CHAP" : "None";
    if (!one_of(wanted, *methods)) return LoginStatus::authentication_failure;
    answers.emplace_back("AuthMethod", wanted);
    if (needed) chap_ = Chap::method_chosen;
    return LoginStatus::success;
  }
  if (!needed) return LoginStatus::success;
  return take_chap(pairs, answers);
}

LoginStatus Login::take_chap(const KeyValues& pairs, KeyValues& answers) {
  if (const std::string* const algorithms = find_value(pairs, "CHAP_A")) {
    if (chap_ != Chap::method_chosen) return LoginStatus::initiator_error;
    const auto chosen = choose_algorithm(*algorithms);
    if (!chosen) return LoginStatus::authentication_failure;
    algorithm_ = *chosen;
    answers.emplace_back("CHAP_A", std::to_string(static_cast<unsigned>(algorithm_)));
    answers.emplace_back("CHAP_I", std::to_string(std::to_integer<unsigned>(challenge_.front())));
    answers.emplace_back("CHAP_C", format_binary(std::span(challenge_).subspan(1)));
    chap_ = Chap::challenged;
    return LoginStatus::success;
  }
  if (find_value(pairs, "CHAP_N") != nullptr) return check_response(pairs, answers);
  return LoginStatus::success;
}

LoginStatus Login::check_response(const KeyValues& pairs, KeyValues& answers) {
  if (chap_ != Chap::challenged) return LoginStatus::initiator_error;
  chap_ = Chap::not_begun;  // one attempt a challenge
  const std::string& name = *find_value(pairs, "CHAP_N");
  const std::string* const given = find_value(pairs, "CHAP_R");
  const auto response = given != nullptr ? parse_binary(*given) : std::nullopt;
  const auto account = std::ranges::find(policy_.accounts.initiators, name, &Account::name);
  if (!response || account == policy_.accounts.initiators.end())
    return LoginStatus::authentication_failure;
  const auto challenge = std::span(challenge_).subspan(1);
  const auto identifier = std::to_integer<std::uint8_t>(challenge_.front());
  if (!same_bytes(*response, chap_response(algorithm_, identifier, account->secret, challenge)))
    return LoginStatus::authentication_failure;

  const std::string* const their_id = find_value(pairs, "CHAP_I");
  const std::string* const their_challenge = find_value(pairs, "CHAP_C");
  if (their_id != nullptr || their_challenge != nullptr) {
    if (their_id == nullptr || their_challenge == nullptr) return LoginStatus::initiator_error;
    const auto id = parse_number(*their_id);
    const auto asked = parse_binary(*their_challenge);
    if (!policy_.accounts.target || !id || *id > 255 || !asked || asked->empty())
      return LoginStatus::authentication_failure;
    // One who sends our own challenge back wants our answer for another login.
    if (same_bytes(*asked, challenge)) return LoginStatus::authentication_failure;
    answers.emplace_back("CHAP_N", policy_.accounts.target->name);
    answers.emplace_back("CHAP_R",
                         format_binary(chap_response(algorithm_, static_cast<std::uint8_t>(*id),
                                                     policy_.accounts.target->secret, *asked)));
  }
  chap_ = Chap::passed;
  return LoginStatus::success;
}

LoginStatus Login::take_operational(const KeyValues& pairs, KeyValues& answers) {
  constexpr std::string_view not_negotiated[] = {
      "InitiatorName", "InitiatorAlias", "TargetName", "SessionType", "AuthMethod",
      "CHAP_A",        "CHAP_I",         "CHAP_C",     "CHAP_N",      "CHAP_R"};
  // Answered, one of these would stand beside the target's own.
  constexpr std::string_view the_targets[] = {"TargetAddress", "TargetAlias",
                                              "TargetPortalGroupTag"};
  for (const KeyValue& pair : pairs) {
    if (std::ranges::find(the_targets, pair.first) != std::end(the_targets))
      return LoginStatus::initiator_error;
    if (std::ranges::find(not_negotiated, pair.first) != std::end(not_negotiated)) continue;
    if (std::ranges::find(seen_, pair.first) != seen_.end()) return LoginStatus::initiator_error;
    seen_.push_back(pair.first);
    if (!negotiate(pair, parameters_, answers)) return LoginStatus::initiator_error;
  }
  if (!discovery_ && !group_told_) {
    group_told_ = true;
    answers.emplace_back("TargetPortalGroupTag", std::to_string(policy_.portal_group));
  }
  if (stage_ == Stage::operational && !length_told_) {
    length_told_ = true;
    answers.emplace_back("MaxRecvDataSegmentLength", std::to_string(our_segment_length));
  }
  parameters_.first_burst_length =
      std::min(parameters_.first_burst_length, parameters_.burst_length);
  return LoginStatus::success;
}

LoginReply Login::reply(const Header& request, LoginStatus status, const KeyValues& answers,
                        bool transit) {
  LoginReply out;
  out.status = status;
  out.text = format_text(answers);
  Header& header = out.header;
  header = make_header(Opcode::login_response, request.task_tag(), false);
  std::uint8_t flags = static_cast<std::uint8_t>(static_cast<std::uint8_t>(stage_) << 2);
  if (transit) {
    stage_ = static_cast<Stage>(next_stage(request));
    flags |= transit_bit | next_stage(request);
    out.finished = stage_ == Stage::full_feature;
  }
  header.set_u8(1, flags);
  header.set_data_length(out.text.size());
  header.set_u64(8, isid_ << 16 | (out.finished ? tsih_ : 0));
  header.set_status_number(status_number_++);
  header.set_expected_command(expected_command_);
  header.set_last_command(expected_command_ + 1);
  header.set_u16(36, static_cast<std::uint16_t>(status));
  return out;
}

}  // namespace tidepool::scsi::iscsi
