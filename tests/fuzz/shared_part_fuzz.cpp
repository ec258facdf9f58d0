// What hosts that share a unit keep of it, with any content, also with reservations whose
// checksum matches. What is decoded says the same when it is encoded again.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/byte_order.h"
#include "scsi/shared_part.h"
#include "tests/fuzz/target.h"

namespace tidepool::test {

using namespace scsi;

std::vector<Input> seeds() {
  SharedPart part;
  std::vector<Input> inputs{encode_shared_part(part)};
  part.reservations = {.generation = 3, .type = ReservationType::write_exclusive, .holder = "a"};
  part.reservations.registrants = {{.port = "a", .key = 1}, {.port = "b", .key = 2}};
  using Kind = SharedEffect::Kind;
  for (const Kind kind : {Kind::attention, Kind::abort, Kind::reset, Kind::clear})
    part.effects.push_back({.kind = kind, .number = 7, .task = 5, .code = 0x2a03, .port = "b"});
  inputs.push_back(encode_shared_part(part));
  return inputs;
}

namespace {

void decode(std::span<const std::byte> stored) {
  const auto part = decode_shared_part(stored);
  if (!part) return require(!part.error().message.empty(), "an error is worded");
  require(part->effects.size() <= most_shared_effects, "effects are bounded");
  const auto again = decode_shared_part(encode_shared_part(*part));
  require(again.has_value() && *again == *part, "what is written of it is the same again");
}

}  // namespace

void run_one(std::span<const std::byte> input) {
  decode(input);
  constexpr std::size_t before = 9, hash = 8;  // version, flag and length; the checksum
  if (input.size() < before + hash) return;
  Input mended(input.begin(), input.end());
  const std::uint32_t length = load_le32(&mended[before - 4]);
  if (length < hash || length > mended.size() - before) return;
  store_le64(&mended[before], XXH3_64bits(&mended[before + hash], length - hash));
  decode(mended);
}

}  // namespace tidepool::test
