// Claims and beats of hosts that share a disk, as they are and with their sums mended so that
// what is behind them is reached. What is decoded says the same when it is encoded again.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/byte_order.h"
#include "blockdev/lease/shared_format.h"
#include "tests/fuzz/target.h"

namespace tidepool::test {

using namespace blockdev::lease;

std::vector<Input> seeds() {
  SharedState state{.number = 9, .duration = std::chrono::milliseconds(15'000)};
  std::vector<Input> inputs{encode(state)};
  state.members = {{.id = {1}, .serial = 3, .host = "alpha"},
                   {.id = {2}, .serial = 4, .fenced = true, .host = "beta"}};
  state.holds = {{.member = {1}, .id = 7, .begin = 0, .end = 4096},
                 {.member = {2}, .id = 1, .begin = 4096, .end = 8192}};
  state.payload.assign(20, std::byte{0x5a});
  inputs.push_back(encode(state));
  const auto beat = encode(Beat{
      .member = {1}, .count = 2, .acknowledged = 9, .duration = std::chrono::milliseconds(15'000)});
  inputs.emplace_back(beat.begin(), beat.end());
  return inputs;
}

namespace {

void decode(std::span<const std::byte> input) {
  if (const auto state = decode_shared(input)) {
    require(state->number > 0 && state->duration.count() > 0, "numbers are sane");
    require(state->members.size() <= SharedState::most_members, "members are bounded");
    require(state->holds.size() <= SharedState::most_holds, "holds are bounded");
    for (const Hold& hold : state->holds)
      require(state->find(hold.member) != nullptr && hold.begin < hold.end, "a hold is a member's");
    require(decode_shared(encode(*state)) == state, "a claim survives its encoding");
  }
  if (const auto beat = decode_beat(input)) {
    require(beat->duration.count() > 0, "a beat lasts");
    require(decode_beat(encode(*beat)) == beat, "a beat survives its encoding");
  }
}

}  // namespace

void run_one(std::span<const std::byte> input) {
  decode(input);
  if (input.size() < 8) return;
  Input mended(input.begin(), input.end());
  store_le64(mended.data(), XXH3_64bits(&mended[8], mended.size() - 8));
  decode(mended);
}

}  // namespace tidepool::test
