// Sizes as text: what is accepted can be written and read again.
#include <string_view>

#include "base/size_text.h"
#include "tests/fuzz/target.h"

namespace tidepool::test {

std::vector<Input> seeds() {
  std::vector<Input> inputs;
  for (std::string_view text : {"0", "512", "1K", "1.5GiB", "15.999999E", "18446744073709551615",
                                "10T", "7 M", "1.", ".5", "1KB"}) {
    auto bytes = std::as_bytes(std::span(text));
    inputs.emplace_back(bytes.begin(), bytes.end());
  }
  return inputs;
}

void run_one(std::span<const std::byte> input) {
  auto size = parse_size({reinterpret_cast<const char*>(input.data()), input.size()});
  if (!size) return require(!size.error().message.empty(), "an error says something");
  std::string text = format_size(*size);
  std::erase(text, ' ');
  auto again = parse_size(text);
  if (!again) return require(*size > ~std::uint64_t{0} / 64 * 63, "what is written can be read");
  std::uint64_t difference = *again > *size ? *again - *size : *size - *again;
  require(difference <= *size / 10, "what is read again is about the same");
}

}  // namespace tidepool::test
