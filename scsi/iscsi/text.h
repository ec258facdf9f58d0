// The text of login and text PDUs: KEY=VALUE, each ended by a NUL. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tidepool::scsi::iscsi {

using KeyValue = std::pair<std::string, std::string>;
using KeyValues = std::vector<KeyValue>;

inline constexpr std::size_t longest_key = 63;  // RFC 7143 6.1
inline constexpr std::size_t longest_value = 8192;
inline constexpr std::size_t most_pairs = 128;

// Nothing when it is not of that form. A key that comes twice is an error of the initiator's.
std::optional<KeyValues> parse_text(std::span<const std::byte> data);
std::vector<std::byte> format_text(const KeyValues& pairs);
// Null: there is none.
const std::string* find_value(const KeyValues& pairs, std::string_view key);
// Values separated by commas.
std::vector<std::string_view> split_list(std::string_view value);
// Decimal, or hexadecimal after "0x".
std::optional<std::uint64_t> parse_number(std::string_view text);
// Binary as "0x..." or base64 as "0b...".
std::optional<std::vector<std::byte>> parse_binary(std::string_view text);
std::string format_binary(std::span<const std::byte> data);

}  // namespace tidepool::scsi::iscsi
