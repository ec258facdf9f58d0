#include "blockdev/lease/lease_format.h"

#define XXH_INLINE_ALL
#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <vector>

#include "base/codec.h"

namespace tidepool::blockdev::lease {

namespace {

constexpr std::uint64_t magic = 0x4d49'4c43'4544'4954;  // "TIDECLIM"
constexpr std::size_t checked_bytes = Claim::encoded_size - 8;
constexpr std::string_view prefix = "claim.";
constexpr std::size_t digits = 20;

}  // namespace

std::array<std::byte, Claim::encoded_size> encode(const Claim& claim) {
  std::vector<std::byte> bytes;
  bytes.reserve(Claim::encoded_size);
  Encoder out(bytes);
  out.u64(magic);
  out.u32(Claim::version);
  out.u8(static_cast<std::uint8_t>(claim.state));
  out.u8(0), out.u16(0);
  out.bytes(std::as_bytes(std::span(claim.owner)));
  out.u64(claim.number);
  out.u64(claim.beat);
  out.u64(static_cast<std::uint64_t>(claim.duration.count()));
  out.i64(claim.since_seconds);
  out.text(std::string_view(claim.host).substr(0, Claim::host_limit));
  bytes.resize(checked_bytes);
  out.u64(XXH3_64bits(bytes.data(), checked_bytes));
  std::array<std::byte, Claim::encoded_size> encoded{};
  std::ranges::copy(bytes, encoded.begin());
  return encoded;
}

std::optional<Claim> decode_claim(std::span<const std::byte> data) {
  if (data.size() < Claim::encoded_size) return std::nullopt;
  Decoder sum(data.subspan(checked_bytes, 8));
  if (sum.u64() != XXH3_64bits(data.data(), checked_bytes)) return std::nullopt;
  Decoder in(data.first(checked_bytes));
  Claim claim;
  if (in.u64() != magic || in.u32() != Claim::version) return std::nullopt;
  const std::uint8_t state = in.u8();
  in.u8(), in.u16();
  const auto owner = in.bytes(claim.owner.size());
  if (!owner.empty()) std::memcpy(claim.owner.data(), owner.data(), owner.size());
  claim.number = in.u64();
  claim.beat = in.u64();
  const std::uint64_t duration = in.u64();
  claim.since_seconds = in.i64();
  claim.host = in.text();
  constexpr std::uint64_t longest = std::uint64_t{24} * 3600 * 1000;  // milliseconds
  const bool sane = in.ok() && state <= 1 && claim.number > 0 && duration > 0 &&
                    duration <= longest && claim.host.size() <= Claim::host_limit;
  if (!sane) return std::nullopt;
  claim.state = static_cast<ClaimState>(state);
  claim.duration = std::chrono::milliseconds(duration);
  return claim;
}

std::string claim_name(std::uint64_t number) { return fmt::format("{}{:020}", prefix, number); }

std::uint64_t claim_number(std::string_view name) {
  if (!name.starts_with(prefix) || name.size() != prefix.size() + digits) return 0;
  name.remove_prefix(prefix.size());
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  return error == std::errc{} && end == name.data() + name.size() ? number : 0;
}

}  // namespace tidepool::blockdev::lease
