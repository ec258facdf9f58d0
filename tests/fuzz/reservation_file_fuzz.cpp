// A file of persistent reservations with any content, as it is and with a checksum that
// matches, as that stops most damage but no enemy.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/byte_order.h"
#include "scsi/reservation_format.h"
#include "tests/fuzz/target.h"

namespace tidepool::test {

using namespace scsi;

std::vector<Input> seeds() {
  ReservationState state{.generation = 3, .through_power_loss = true};
  std::vector<Input> inputs{encode_reservations(state)};
  state.registrants.push_back({.port = "a port", .key = 1});
  inputs.push_back(encode_reservations(state));
  state.type = ReservationType::write_exclusive;
  state.holder = "a port";
  state.registrants.push_back({.port = "another", .key = 2, .all_target_ports = true});
  inputs.push_back(encode_reservations(state));
  state.type = ReservationType::exclusive_access_all_registrants;
  state.holder.clear();
  inputs.push_back(encode_reservations(state));
  return inputs;
}

namespace {

void decode(std::span<const std::byte> stored) {
  const auto state = decode_reservations(stored, "file");
  if (!state) return require(!state.error().message.empty(), "an error is worded");
  require(state->registrants.size() <= most_registrants, "registrants are bounded");
  const auto again = decode_reservations(encode_reservations(*state), "file");
  require(again.has_value() && *again == *state, "what is written of it is the same again");
  const PersistentReservations reservations(*state);
  require(reservations.reserved() == (state->type != ReservationType::none), "a type, a holder");
}

}  // namespace

void run_one(std::span<const std::byte> input) {
  decode(input);
  if (input.size() < 8) return;
  Input sealed(input.begin(), input.end());
  store_le64(sealed.data(), XXH3_64bits(&sealed[8], sealed.size() - 8));
  decode(sealed);
}

}  // namespace tidepool::test
