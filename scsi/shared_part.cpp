#include "scsi/shared_part.h"

#include <cstring>

#include "base/codec.h"
#include "scsi/reservation_format.h"

namespace tidepool::scsi {

namespace {

constexpr std::uint32_t version = 1;
constexpr std::string_view name = "the hosts' shared state";

}  // namespace

std::vector<std::byte> encode_shared_part(const SharedPart& part) {
  std::vector<std::byte> out;
  Encoder to(out);
  to.u32(version);
  to.u8(part.reservations.through_power_loss ? 1 : 0);
  const auto reservations = encode_reservations(part.reservations);
  to.u32(static_cast<std::uint32_t>(reservations.size()));
  to.bytes(reservations);
  to.u32(static_cast<std::uint32_t>(part.effects.size()));
  for (const SharedEffect& effect : part.effects) {
    to.u8(static_cast<std::uint8_t>(effect.kind));
    to.u64(effect.number);
    to.bytes(std::as_bytes(std::span(effect.by)));
    to.u64(effect.task);
    to.u16(effect.code);
    to.text(effect.port);
  }
  return out;
}

Result<SharedPart> decode_shared_part(std::span<const std::byte> stored) {
  SharedPart part;
  if (stored.empty()) return part;
  const auto damaged = [] {
    return fail(ErrorKind::corrupt, "{} of a unit cannot be what it says", name);
  };
  Decoder in(stored);
  const std::uint32_t found = in.u32();
  if (in.ok() && found > version)
    return fail(ErrorKind::unsupported, "{} has format version {}; this program knows {}", name,
                found, version);
  const bool through_power_loss = in.u8() != 0;
  auto reservations = decode_reservations(in.bytes(in.u32()), name);
  if (!reservations) return std::unexpected(reservations.error());
  part.reservations = std::move(*reservations);
  part.reservations.through_power_loss = through_power_loss;
  const std::uint32_t count = in.u32();
  if (count > most_shared_effects) return damaged();
  for (std::uint32_t i = 0; i < count && in.ok(); ++i) {
    SharedEffect effect;
    const std::uint8_t kind = in.u8();
    if (kind > static_cast<std::uint8_t>(SharedEffect::Kind::clear)) return damaged();
    effect.kind = static_cast<SharedEffect::Kind>(kind);
    effect.number = in.u64();
    const auto by = in.bytes(effect.by.size());
    if (!by.empty()) std::memcpy(effect.by.data(), by.data(), by.size());
    effect.task = in.u64();
    effect.code = in.u16();
    effect.port = in.text();
    part.effects.push_back(std::move(effect));
  }
  if (!in.ok() || !in.at_end()) return damaged();
  return part;
}

}  // namespace tidepool::scsi
