#include "base/size_text.h"

#include <array>
#include <cctype>
#include <limits>

namespace tidepool {
namespace {

constexpr std::string_view units = "KMGTPE";
constexpr int most_decimals = 18;

__extension__ using Wide = unsigned __int128;  // products before they are judged

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// The power of 1024 that a suffix stands for, or -1.
int suffix_power(std::string_view suffix) {
  if (suffix.empty() || suffix == "B" || suffix == "b") return 0;
  const auto index =
      units.find(static_cast<char>(std::toupper(static_cast<unsigned char>(suffix.front()))));
  if (index == std::string_view::npos) return -1;
  suffix.remove_prefix(1);
  if (suffix.empty() || suffix == "iB" || suffix == "ib") return static_cast<int>(index) + 1;
  return -1;
}

}  // namespace

Result<std::uint64_t> parse_size(std::string_view text) {
  const auto malformed = [&] {
    return fail(ErrorKind::invalid_argument,
                "'{}' is not a size: write a number with an optional K, M, G, T, P or E "
                "(powers of 1024), such as 512M or 1.5G",
                text);
  };
  const auto too_large = [&] {
    return fail(ErrorKind::invalid_argument, "size '{}' is too large: less than 16E is possible",
                text);
  };

  constexpr auto limit = std::numeric_limits<std::uint64_t>::max();
  std::size_t at = 0;
  Wide whole = 0;
  for (; at < text.size() && is_digit(text[at]); ++at) {
    whole = whole * 10 + static_cast<unsigned>(text[at] - '0');
    if (whole > limit) return too_large();
  }
  if (at == 0) return malformed();

  std::uint64_t decimals = 0, scale = 1;
  if (at < text.size() && text[at] == '.') {
    const std::size_t first = ++at;
    for (; at < text.size() && is_digit(text[at]); ++at) {
      if (at - first == most_decimals) return malformed();
      decimals = decimals * 10 + static_cast<unsigned>(text[at] - '0');
      scale *= 10;
    }
    if (at == first) return malformed();
  }

  std::string_view suffix = text.substr(at);
  while (!suffix.empty() && suffix.front() == ' ') suffix.remove_prefix(1);
  const int power = suffix_power(suffix);
  if (power < 0) return malformed();
  const unsigned shift = 10U * static_cast<unsigned>(power);
  if (whole > (limit >> shift)) return too_large();
  const Wide bytes = (whole << shift) + ((static_cast<Wide>(decimals) << shift) / scale);
  if (bytes > limit) return too_large();
  return static_cast<std::uint64_t>(bytes);
}

std::string format_size(std::uint64_t bytes) {
  if (bytes < 1024) return fmt::format("{} B", bytes);
  std::size_t unit = 0;
  unsigned shift = 10;
  // Tenths, rounded; 1023.96 MiB becomes 1 GiB rather than 1024 MiB.
  const auto tenths_at = [&](unsigned bits) {
    const auto wide = static_cast<Wide>(bytes) * 10;
    return static_cast<std::uint64_t>((wide + (std::uint64_t{1} << (bits - 1))) >> bits);
  };
  std::uint64_t tenths = tenths_at(shift);
  while (tenths >= 10240 && unit + 1 < units.size()) {
    ++unit;
    shift += 10;
    tenths = tenths_at(shift);
  }
  if (tenths % 10 == 0) return fmt::format("{} {}iB", tenths / 10, units[unit]);
  return fmt::format("{}.{} {}iB", tenths / 10, tenths % 10, units[unit]);
}

std::string format_size_exactly(std::uint64_t bytes) {
  std::size_t unit = 0;  // one behind that of `units`
  while (bytes != 0 && bytes % 1024 == 0 && unit < units.size()) {
    bytes /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{} {}iB", bytes, units[unit - 1]);
}

}  // namespace tidepool
