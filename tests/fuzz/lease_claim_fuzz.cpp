// Claims of a lock directory, with their sums mended so that what is behind them is reached;
// and file names. What is decoded says the same when it is encoded again.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <string_view>

#include "blockdev/lease/lease_format.h"
#include "tests/fuzz/target.h"

namespace tidepool::test {

using namespace blockdev::lease;

std::vector<Input> seeds() {
  std::vector<Input> inputs;
  for (const auto state : {ClaimState::held, ClaimState::released}) {
    const auto encoded = encode({.number = 7,
                                 .beat = 3,
                                 .state = state,
                                 .duration = std::chrono::milliseconds(15'000),
                                 .since_seconds = 1'700'000'000,
                                 .host = "host"});
    inputs.emplace_back(encoded.begin(), encoded.end());
  }
  const std::string name = claim_name(7);
  const auto bytes = std::as_bytes(std::span(name));
  inputs.emplace_back(bytes.begin(), bytes.end());
  return inputs;
}

void run_one(std::span<const std::byte> input) {
  const std::string_view name(reinterpret_cast<const char*>(input.data()), input.size());
  if (const std::uint64_t number = claim_number(name); number != 0)
    require(claim_name(number) == name, "a number has one name");
  decode_claim(input);
  Input mended(input.begin(), input.end());
  if (mended.size() < Claim::encoded_size) return;
  constexpr std::size_t checked = Claim::encoded_size - 8;
  const std::uint64_t sum = XXH3_64bits(mended.data(), checked);
  std::memcpy(&mended[checked], &sum, sizeof sum);
  const auto claim = decode_claim(mended);
  if (!claim) return;
  require(claim->number > 0 && claim->duration.count() > 0, "numbers are sane");
  require(claim->host.size() <= Claim::host_limit, "the host is bounded");
  require(decode_claim(encode(*claim)) == claim, "it survives its encoding");
}

}  // namespace tidepool::test
