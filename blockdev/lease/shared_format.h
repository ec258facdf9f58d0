// What hosts that share a disk keep in its lock directory (shared_format.md): a claim that is
// theirs together, and a beat of each. Pure codec: no I/O.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/uuid.h"

namespace tidepool::blockdev::lease {

struct Member {
  static constexpr std::size_t host_limit = 255;  // bytes

  Uuid id{};                 // new each time that a host joins
  std::uint64_t serial = 0;  // of its last change that is in the state
  bool fenced = false;       // it is to go, as its beat stands still
  std::string host;          // who; for people
  bool operator==(const Member&) const = default;
};

// The bytes [begin, end) of the disk, to be touched by one member only.
struct Hold {
  Uuid member{};
  std::uint64_t id = 0;  // of the member's choice
  std::uint64_t begin = 0, end = 0;
  bool operator==(const Hold&) const = default;
};

// A claim whose owner is all members.
struct SharedState {
  static constexpr std::uint32_t version = 1;
  static constexpr std::size_t most_members = 64, most_holds = 1024;
  static constexpr std::size_t most_payload = std::size_t{2} << 20;  // bytes
  static constexpr std::size_t most_encoded = most_payload + (std::size_t{1} << 18);

  std::uint64_t number = 0;               // that of the file's name
  std::chrono::milliseconds duration{0};  // of a beat, the longest of the members'
  std::int64_t since_seconds = 0;         // when it began to be shared, since 1970
  std::vector<Member> members;            // none: released
  std::vector<Hold> holds;                // of members; of two members they do not overlap
  std::vector<std::byte> payload;         // what the disk's users keep there
  bool operator==(const SharedState&) const = default;

  const Member* find(const Uuid& id) const;
  Member* find(const Uuid& id);
  void remove(Uuid id);  // and its holds
};

// What a member writes, again and again.
struct Beat {
  static constexpr std::size_t encoded_size = 64;  // bytes: written and read as one
  static constexpr std::uint32_t version = 1;

  Uuid member{};
  std::uint64_t count = 0;         // of its beats
  std::uint64_t acknowledged = 0;  // the claim that it follows, and no older one any more
  std::chrono::milliseconds duration{0};
  bool operator==(const Beat&) const = default;
};

std::vector<std::byte> encode(const SharedState& state);
// Nothing: empty, cut off, damaged, of a later version, or a claim of a single owner.
std::optional<SharedState> decode_shared(std::span<const std::byte> data);

std::array<std::byte, Beat::encoded_size> encode(const Beat& beat);
std::optional<Beat> decode_beat(std::span<const std::byte> data);

std::string member_name(const Uuid& id);  // "member." and the UUID as text
bool is_member_name(std::string_view name);

}  // namespace tidepool::blockdev::lease
