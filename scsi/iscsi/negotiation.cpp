#include "scsi/iscsi/negotiation.h"

#include <algorithm>
#include <optional>
#include <span>

namespace tidepool::scsi::iscsi {

namespace {

constexpr std::uint64_t largest_length = (1u << 24) - 1;

struct NumberRule {
  const char* key;
  std::uint64_t least, most;  // of an offer that makes sense
  std::uint64_t ours;
  bool larger_wins;
  std::uint32_t SessionParameters::*result;
};

constexpr NumberRule numbers[] = {
    {"MaxConnections", 1, 65535, 1, false, nullptr},
    {"MaxBurstLength", 512, largest_length, our_burst_length, false,
     &SessionParameters::burst_length},
    {"FirstBurstLength", 512, largest_length, our_first_burst_length, false,
     &SessionParameters::first_burst_length},
    {"DefaultTime2Wait", 0, 3600, 0, true, nullptr},
    {"DefaultTime2Retain", 0, 3600, 0, false, nullptr},
    {"MaxOutstandingR2T", 1, 65535, 1, false, nullptr},
    {"ErrorRecoveryLevel", 0, 2, 0, false, nullptr},
    {"iSCSIProtocolLevel", 0, 31, 1, false, nullptr},
};

struct BooleanRule {
  const char* key;
  bool ours;
  bool either;  // Yes when one of both says so; else when both do
  bool SessionParameters::*result;
};

constexpr BooleanRule booleans[] = {
    {"InitialR2T", true, true, nullptr},
    {"ImmediateData", true, false, &SessionParameters::immediate_data},
    {"DataPDUInOrder", true, true, nullptr},
    {"DataSequenceInOrder", true, true, nullptr},
    {"IFMarker", false, false, nullptr},
    {"OFMarker", false, false, nullptr},
};

void negotiate_number(const NumberRule& rule, const KeyValue& offer, SessionParameters& parameters,
                      KeyValues& answers) {
  const auto offered = parse_number(offer.second);
  if (!offered || *offered < rule.least || *offered > rule.most)
    return (void)answers.emplace_back(rule.key, "Reject");
  const std::uint64_t agreed =
      rule.larger_wins ? std::max(*offered, rule.ours) : std::min(*offered, rule.ours);
  if (rule.result != nullptr) parameters.*rule.result = static_cast<std::uint32_t>(agreed);
  answers.emplace_back(rule.key, std::to_string(agreed));
}

void negotiate_boolean(const BooleanRule& rule, const KeyValue& offer,
                       SessionParameters& parameters, KeyValues& answers) {
  if (offer.second != "Yes" && offer.second != "No")
    return (void)answers.emplace_back(rule.key, "Reject");
  const bool offered = offer.second == "Yes";
  const bool agreed = rule.either ? offered || rule.ours : offered && rule.ours;
  if (rule.result != nullptr) parameters.*rule.result = agreed;
  answers.emplace_back(rule.key, agreed ? "Yes" : "No");
}

// The first of the initiator's list that is known here.
void negotiate_list(const char* key, const KeyValue& offer, std::span<const char* const> known,
                    KeyValues& answers) {
  for (const std::string_view value : split_list(offer.second)) {
    if (std::ranges::find(known, value) == known.end()) continue;
    answers.emplace_back(key, value);
    return;
  }
  answers.emplace_back(key, "Reject");
}

bool negotiate_digest(const KeyValue& offer, bool& result, KeyValues& answers) {
  constexpr const char* known[] = {"CRC32C", "None"};
  negotiate_list(offer.first.c_str(), offer, known, answers);
  result = answers.back().second == "CRC32C";
  return answers.back().second != "Reject";
}

}  // namespace

bool negotiate(const KeyValue& offer, SessionParameters& parameters, KeyValues& answers) {
  const auto& [key, value] = offer;
  for (const NumberRule& rule : numbers)
    if (key == rule.key) return negotiate_number(rule, offer, parameters, answers), true;
  for (const BooleanRule& rule : booleans)
    if (key == rule.key) return negotiate_boolean(rule, offer, parameters, answers), true;
  if (key == "HeaderDigest") return negotiate_digest(offer, parameters.header_digest, answers);
  if (key == "DataDigest") return negotiate_digest(offer, parameters.data_digest, answers);
  if (key == "MaxRecvDataSegmentLength") {
    // A declaration: it gets ours, no answer.
    const auto length = parse_number(value);
    if (!length || *length < 512 || *length > largest_length) return false;
    parameters.initiator_segment_length = static_cast<std::uint32_t>(*length);
    return true;
  }
  if (key == "TaskReporting") {
    constexpr const char* known[] = {"RFC3720"};
    negotiate_list("TaskReporting", offer, known, answers);
    return true;
  }
  if (key == "IFMarkInt" || key == "OFMarkInt") {
    answers.emplace_back(key, "Irrelevant");
    return true;
  }
  answers.emplace_back(key, "NotUnderstood");
  return true;
}

}  // namespace tidepool::scsi::iscsi
