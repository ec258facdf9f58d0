// What an initiator says as text: login requests through all their stages, and the pieces that
// keys' values are made of; also the file of CHAP accounts.
//
// An input is a list of requests: the byte of flags and stages, the length, the text.
#include <string>

#include "base/codec.h"
#include "scsi/iscsi/login.h"
#include "tests/fuzz/target.h"

namespace tidepool::test {

using namespace scsi::iscsi;

namespace {

constexpr const char* file =
    "initiator alice secret-of-alice\n# a comment\ntarget disk secret-of-target\n";

void request(Input& input, unsigned flags, const KeyValues& pairs) {
  const Input text = format_text(pairs);
  Encoder to(input);
  to.u8(static_cast<std::uint8_t>(flags));
  to.u16(static_cast<std::uint16_t>(text.size()));
  to.bytes(text);
}

const KeyValues names{{"InitiatorName", "iqn.2026-11.test:a"},
                      {"TargetName", "iqn.2026-11.test:disk"},
                      {"SessionType", "Normal"}};

KeyValues with_names(KeyValues more) {
  KeyValues out = names;
  out.insert(out.end(), more.begin(), more.end());
  return out;
}

void login(std::span<const std::byte> input, const LoginPolicy& policy) {
  Login state(policy, 7, Input(25, std::byte{0x11}));
  Decoder from(input);
  while (!from.at_end()) {
    Header header = make_header(Opcode::login, 1);
    header.set_u8(0, 0x43);
    header.set_u8(1, from.u8());
    const auto text = from.bytes(std::min<std::size_t>(from.u16(), from.remaining()));
    header.set_data_length(text.size());
    const LoginReply reply = state.answer(header, text);
    require(parse_text(reply.text).has_value(), "a reply's text is text");
    require(reply.header.opcode() == Opcode::login_response, "a login is answered as one");
    if (reply.status != LoginStatus::success) return;
    if (!reply.finished) continue;
    require(!state.initiator().empty(), "who is in has a name");
    require(policy.accounts.initiators.empty(), "nobody guesses the answer to a challenge");
    const SessionParameters& agreed = state.parameters();
    require(agreed.burst_length >= 512 && agreed.burst_length <= our_burst_length, "a burst");
    require(agreed.first_burst_length <= our_first_burst_length, "a first burst");
    require(agreed.initiator_segment_length >= 512, "a segment");
    return;
  }
}

}  // namespace

std::vector<Input> seeds() {
  std::vector<Input> inputs;
  Input& plain = inputs.emplace_back();
  request(plain, 0x87,
          with_names({{"HeaderDigest", "CRC32C,None"},
                      {"DataDigest", "None"},
                      {"MaxRecvDataSegmentLength", "262144"},
                      {"MaxBurstLength", "0x40000"},
                      {"FirstBurstLength", "65536"},
                      {"ImmediateData", "Yes"},
                      {"InitialR2T", "No"},
                      {"ErrorRecoveryLevel", "0"},
                      {"TaskReporting", "RFC3720"},
                      {"X-com.example.key", "1"}}));
  Input& chap = inputs.emplace_back();
  request(chap, 0x81, with_names({{"AuthMethod", "CHAP,None"}}));
  request(chap, 0x81, {{"CHAP_A", "7,6,5"}});
  request(chap, 0x81,
          {{"CHAP_N", "alice"},
           {"CHAP_R", "0x00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"},
           {"CHAP_I", "3"},
           {"CHAP_C", "0bAAECAwQFBgcICQoLDA0ODw=="}});
  Input& pieces = inputs.emplace_back();
  request(pieces, 0x40, names);
  request(pieces, 0x81, {{"AuthMethod", "None"}});
  request(pieces, 0x87, {{"MaxConnections", "4"}});
  // Once answered beside the target's own.
  request(inputs.emplace_back(), 0x87, with_names({{"TargetPortalGroupTag", "65536"}}));
  Input& discovery = inputs.emplace_back();
  request(discovery, 0x87, {{"InitiatorName", "iqn.2026-11.test:a"}, {"SessionType", "Discovery"}});
  const auto* const accounts = reinterpret_cast<const std::byte*>(file);
  inputs.emplace_back(accounts, accounts + std::char_traits<char>::length(file));
  return inputs;
}

void run_one(std::span<const std::byte> input) {
  static const LoginPolicy open{.target_name = "iqn.2026-11.test:disk"};
  static const LoginPolicy guarded{.target_name = "iqn.2026-11.test:disk",
                                   .accounts = *parse_accounts(file, "file")};
  login(input, open);
  login(input, guarded);
  const std::string_view text(reinterpret_cast<const char*>(input.data()), input.size());
  if (const auto accounts = parse_accounts(text, "file"))
    require(!accounts->initiators.empty(), "a file names somebody");
  if (const auto pairs = parse_text(input)) {
    const auto again = parse_text(format_text(*pairs));
    require(again.has_value() && *again == *pairs, "text that is formatted is the same again");
    for (const auto& [key, value] : *pairs) {
      parse_number(value);
      choose_algorithm(value);
      if (const auto binary = parse_binary(value))
        require(parse_binary(format_binary(*binary)) == binary || binary->empty(),
                "binary is the same again");
    }
  }
}

}  // namespace tidepool::test
