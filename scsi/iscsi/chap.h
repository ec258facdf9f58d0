// CHAP (RFC 1994, RFC 7143 12.1.3): who knows a secret shows it without telling it.
//
// Secrets come from a file that only its owner can read, and go nowhere else: not into a
// log, not into a message.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace tidepool::scsi::iscsi {

struct Account {
  std::string name;
  std::string secret;
};

struct Accounts {
  std::vector<Account> initiators;  // empty: nobody needs to show a secret
  std::optional<Account> target;    // for initiators who ask the target in turn
};

// The file: a line "initiator NAME SECRET" for each initiator, at most one line
// "target NAME SECRET"; '#' begins a comment. `name` is for messages.
Result<Accounts> parse_accounts(std::string_view text, const std::string& name);
// Refuses a file that others can read.
Result<Accounts> read_accounts(const std::string& path);

enum class ChapAlgorithm : std::uint8_t { md5 = 5, sha1 = 6, sha256 = 7 };
// The best that both know, of CHAP_A's list.
std::optional<ChapAlgorithm> choose_algorithm(std::string_view list);

std::vector<std::byte> chap_response(ChapAlgorithm algorithm, std::uint8_t identifier,
                                     const std::string& secret,
                                     std::span<const std::byte> challenge);
// In a time that does not depend on where they differ.
bool same_bytes(std::span<const std::byte> a, std::span<const std::byte> b);

}  // namespace tidepool::scsi::iscsi
