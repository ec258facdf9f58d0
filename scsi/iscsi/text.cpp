#include "scsi/iscsi/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdint>

namespace tidepool::scsi::iscsi {

namespace {

constexpr std::size_t longest_binary = 1024;  // bytes

bool valid_key(std::string_view key) {
  const auto letter = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '-' || c == '+' || c == '@' || c == '_' || c == '/' || c == '#';
  };
  return !key.empty() && key.size() <= longest_key && std::ranges::all_of(key, letter);
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

int base64_digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == '+') return 62;
  return c == '/' ? 63 : -1;
}

std::optional<std::vector<std::byte>> parse_hex(std::string_view digits) {
  std::vector<std::byte> out;
  std::size_t at = 0;
  int value = 0;
  // An odd number of digits: the first byte has one.
  bool half = digits.size() % 2 != 0;
  for (; at < digits.size(); ++at) {
    const int digit = hex_digit(digits[at]);
    if (digit < 0) return std::nullopt;
    value = half ? value * 16 + digit : digit;
    if (half) {
      out.push_back(static_cast<std::byte>(value));
      value = 0;
    }
    half = !half;
  }
  return out;
}

std::optional<std::vector<std::byte>> parse_base64(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  std::size_t padding = 0;
  while (padding < 2 && padding < text.size() && text[text.size() - 1 - padding] == '=') ++padding;
  text.remove_suffix(padding);
  std::vector<std::byte> out;
  std::uint32_t bits = 0;
  unsigned count = 0;
  for (const char c : text) {
    const int digit = base64_digit(c);
    if (digit < 0) return std::nullopt;
    bits = (bits << 6 | static_cast<std::uint32_t>(digit)) & 0xffffff;
    count += 6;
    if (count >= 8) {
      count -= 8;
      out.push_back(static_cast<std::byte>(bits >> count & 0xff));
    }
  }
  return out;
}

bool has_prefix(std::string_view text, char letter) {
  return text.size() >= 2 && text[0] == '0' && (text[1] | 0x20) == letter;
}

}  // namespace

std::optional<KeyValues> parse_text(std::span<const std::byte> data) {
  KeyValues pairs;
  std::string_view rest(reinterpret_cast<const char*>(data.data()), data.size());
  while (!rest.empty()) {
    const std::size_t end = rest.find('\0');
    if (end == std::string_view::npos) return std::nullopt;
    const std::string_view entry = rest.substr(0, end);
    rest.remove_prefix(end + 1);
    if (entry.empty()) continue;  // padding
    const std::size_t equals = entry.find('=');
    if (equals == std::string_view::npos) return std::nullopt;
    const std::string_view key = entry.substr(0, equals), value = entry.substr(equals + 1);
    if (!valid_key(key) || value.size() > longest_value || pairs.size() == most_pairs ||
        find_value(pairs, key) != nullptr)
      return std::nullopt;
    pairs.emplace_back(key, value);
  }
  return pairs;
}

std::vector<std::byte> format_text(const KeyValues& pairs) {
  std::vector<std::byte> out;
  for (const auto& [key, value] : pairs) {
    const std::string entry = key + '=' + value;
    for (const char c : entry) out.push_back(static_cast<std::byte>(c));
    out.push_back(std::byte{0});
  }
  return out;
}

const std::string* find_value(const KeyValues& pairs, std::string_view key) {
  const auto found = std::ranges::find(pairs, key, &KeyValue::first);
  return found == pairs.end() ? nullptr : &found->second;
}

std::vector<std::string_view> split_list(std::string_view value) {
  std::vector<std::string_view> out;
  for (;;) {
    const std::size_t comma = value.find(',');
    out.push_back(value.substr(0, comma));
    if (comma == std::string_view::npos) return out;
    value.remove_prefix(comma + 1);
  }
}

std::optional<std::uint64_t> parse_number(std::string_view text) {
  int base = 10;
  if (has_prefix(text, 'x')) {
    base = 16;
    text.remove_prefix(2);
  }
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<std::vector<std::byte>> parse_binary(std::string_view text) {
  if (text.size() > 2 * longest_binary + 2) return std::nullopt;
  if (has_prefix(text, 'x')) return parse_hex(text.substr(2));
  if (has_prefix(text, 'b')) return parse_base64(text.substr(2));
  return std::nullopt;
}

std::string format_binary(std::span<const std::byte> data) {
  std::string out = "0x";
  for (const std::byte b : data) out += fmt::format("{:02x}", std::to_integer<unsigned>(b));
  return out;
}

}  // namespace tidepool::scsi::iscsi
