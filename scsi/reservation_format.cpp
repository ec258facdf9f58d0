#include "scsi/reservation_format.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstring>

#include "base/byte_order.h"
#include "base/codec.h"

namespace tidepool::scsi {

namespace {

constexpr std::string_view magic = "TPRESERV";
constexpr std::uint32_t version = 1;
constexpr std::size_t hash_bytes = 8;

}  // namespace

std::vector<std::byte> encode_reservations(const ReservationState& state) {
  std::vector<std::byte> out(hash_bytes);
  Encoder to(out);
  to.bytes(std::as_bytes(std::span(magic)));
  to.u32(version);
  to.u32(state.generation);
  to.u8(static_cast<std::uint8_t>(state.type));
  to.u8(0);
  to.text(state.holder);
  to.u32(static_cast<std::uint32_t>(state.registrants.size()));
  for (const Registrant& registrant : state.registrants) {
    to.u64(registrant.key);
    to.u8(registrant.all_target_ports ? 1 : 0);
    to.text(registrant.port);
  }
  store_le64(out.data(), XXH3_64bits(&out[hash_bytes], out.size() - hash_bytes));
  return out;
}

Result<ReservationState> decode_reservations(std::span<const std::byte> stored,
                                             std::string_view name) {
  const auto damaged = [&](std::string_view what) {
    return fail(ErrorKind::corrupt,
                "'{}': {}; remove the file to begin without reservations, when no initiator "
                "relies on them",
                name, what);
  };
  if (stored.size() < hash_bytes + magic.size() || stored.size() > largest_reservation_file)
    return damaged("not a file of reservations");
  const auto body = stored.subspan(hash_bytes);
  if (std::memcmp(body.data(), magic.data(), magic.size()) != 0)
    return damaged("not a file of reservations");
  if (XXH3_64bits(body.data(), body.size()) != load_le64(stored.data()))
    return damaged("its checksum does not match");
  Decoder from(body.subspan(magic.size()));
  const std::uint32_t found = from.u32();
  if (found > version)
    return fail(ErrorKind::unsupported, "'{}' has format version {}; this program knows {}", name,
                found, version);
  ReservationState state{.through_power_loss = true};
  state.generation = from.u32();
  const std::uint8_t code = from.u8();
  state.type = reservation_type(code);
  if (from.u8() != 0 || (code != 0 && state.type == ReservationType::none))
    return damaged("a field is out of bounds");
  state.holder = from.text();
  const std::uint32_t count = from.u32();
  if (count > most_registrants) return damaged("too many registrants");
  for (std::uint32_t i = 0; i < count && from.ok(); ++i) {
    Registrant registrant;
    registrant.key = from.u64();
    registrant.all_target_ports = from.u8() != 0;
    registrant.port = from.text();
    if (registrant.key == 0 || registrant.port.empty() ||
        std::ranges::find(state.registrants, registrant.port, &Registrant::port) !=
            state.registrants.end())
      return damaged("a registrant is not valid");
    state.registrants.push_back(std::move(registrant));
  }
  if (!from.ok() || !from.at_end()) return damaged("its length does not match");
  const PersistentReservations check(state);
  const bool single = !state.holder.empty();
  if (single && !check.registered(state.holder)) return damaged("the holder is not registered");
  if (check.reserved() && !single &&
      state.type != ReservationType::write_exclusive_all_registrants &&
      state.type != ReservationType::exclusive_access_all_registrants)
    return damaged("a reservation without a holder");
  if (check.reserved() && state.registrants.empty())
    return damaged("a reservation without a registrant");
  return state;
}

}  // namespace tidepool::scsi
