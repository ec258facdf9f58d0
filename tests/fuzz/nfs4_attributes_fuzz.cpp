// A server that lies about a file's attributes: a mask of any length, values of any length.
// Input: how many words the mask has (a byte), the words, the values.
#include <algorithm>
#include <cstring>

#include "base/codec.h"
#include "blockdev/stores/nfs_protocol.h"
#include "tests/fuzz/target.h"

namespace tidepool::test {

namespace {

constexpr std::uint32_t type = 1U << 1, size = 1U << 4, most_read = 1U << 30, most_write = 1U << 31;
constexpr std::uint32_t time_modify = 1U << (53 - 32);

}  // namespace

std::vector<Input> seeds() {
  std::vector<Input> inputs;
  const auto add = [&](const std::vector<std::uint32_t>& mask, std::size_t values) {
    Input input;
    Encoder out(input);
    out.u8(static_cast<std::uint8_t>(mask.size()));
    for (const std::uint32_t word : mask) out.u32(word);
    for (std::size_t i = 0; i < values; ++i) out.u8(i % 4 == 3 ? 1 : 0);
    inputs.push_back(input);
  };
  add({type | size}, 12);
  add({type | size | most_read | most_write}, 28);
  add({type | size | most_read | most_write, time_modify}, 40);
  add({type | size, time_modify, 0}, 24);
  add({type, 1}, 8);
  return inputs;
}

void run_one(std::span<const std::byte> input) {
  if (input.empty()) return;
  const auto count = std::min<std::size_t>(std::to_integer<std::size_t>(input[0]), 8);
  input = input.subspan(1);
  if (input.size() < count * 4) return;
  std::vector<std::uint32_t> mask(count);
  if (count > 0) std::memcpy(mask.data(), input.data(), count * 4);
  // A copy of the exact size, so that a sanitizer sees a read behind it.
  const Input values(input.begin() + static_cast<std::ptrdiff_t>(count * 4), input.end());
  blockdev::NfsFile file;
  if (!blockdev::decode_nfs4_attributes(mask, values, file)) return;
  const auto has = [&](std::size_t word, std::uint32_t bit) {
    return word < mask.size() && (mask[word] & bit) != 0;
  };
  require(has(0, type) && has(0, size), "type and size are there");
  std::size_t bytes = 12;
  for (const std::uint32_t bit : {most_read, most_write}) bytes += has(0, bit) ? 8 : 0;
  bytes += has(1, time_modify) ? 12 : 0;
  require(values.size() == bytes, "the values are what the mask says, to the last byte");
  require(file.most_read <= 1U << 30 && file.most_write <= 1U << 30, "limits fit what counts them");
}

}  // namespace tidepool::test
