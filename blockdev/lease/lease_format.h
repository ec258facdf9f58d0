// A claim: one file of a lock directory (lease_format.md). Pure codec: no I/O.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/uuid.h"

namespace tidepool::blockdev::lease {

enum class ClaimState : std::uint8_t { held, released };

struct Claim {
  static constexpr std::size_t encoded_size = 512;  // bytes: written and read as one
  static constexpr std::uint32_t version = 1;
  static constexpr std::size_t host_limit = 255;  // bytes

  Uuid owner{};              // new for each claim
  std::uint64_t number = 0;  // the fencing token: that of the file's name
  std::uint64_t beat = 0;    // counts the owner's renewals
  ClaimState state = ClaimState::held;
  std::chrono::milliseconds duration{0};  // of a renewal
  std::int64_t since_seconds = 0;         // when it was made, since 1970, by the owner's clock
  std::string host;                       // who; for people
  bool operator==(const Claim&) const = default;
};

std::array<std::byte, Claim::encoded_size> encode(const Claim& claim);
// Nothing: empty, cut off, damaged, or of a later version.
std::optional<Claim> decode_claim(std::span<const std::byte> data);

// "claim.00000000000000000007"; 0: not the name of a claim.
std::string claim_name(std::uint64_t number);
std::uint64_t claim_number(std::string_view name);

}  // namespace tidepool::blockdev::lease
