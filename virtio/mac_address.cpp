#include "virtio/mac_address.h"

#include <sys/random.h>

#include <charconv>

namespace tidepool::virtio {

namespace {
constexpr std::byte group{1}, locally_administered{2};
}

Result<MacAddress> parse_mac(std::string_view text) {
  const auto wrong = [&] {
    return fail(ErrorKind::invalid_argument,
                "'{}' is not the address of a network card, such as 52:54:00:12:34:56", text);
  };
  constexpr std::size_t pair = 3;  // characters, its colon included
  MacAddress address{};
  if (text.size() != address.size() * pair - 1) return wrong();
  for (std::size_t i = 0; i < address.size(); ++i) {
    const char* const begin = text.data() + i * pair;
    std::uint8_t value = 0;
    const auto [end, error] = std::from_chars(begin, begin + 2, value, 16);
    if (error != std::errc{} || end != begin + 2) return wrong();
    if (i + 1 < address.size() && begin[2] != ':') return wrong();
    address[i] = std::byte{value};
  }
  if ((address[0] & group) != std::byte{0} || address == MacAddress{}) return wrong();
  return address;
}

std::string to_string(const MacAddress& address) {
  std::string text;
  for (const std::byte byte : address) {
    text += fmt::format("{}{:02x}", text.empty() ? "" : ":", std::to_integer<unsigned>(byte));
  }
  return text;
}

MacAddress random_mac() {
  MacAddress address{};
  [[maybe_unused]] const auto got = ::getrandom(address.data(), address.size(), 0);
  address[0] = (address[0] & ~group) | locally_administered;
  return address;
}

}  // namespace tidepool::virtio
