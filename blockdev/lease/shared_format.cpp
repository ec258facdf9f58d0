#include "blockdev/lease/shared_format.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/byte_order.h"
#include "base/codec.h"

namespace tidepool::blockdev::lease {

namespace {

constexpr std::uint64_t state_magic = 0x5241'4853'4544'4954;  // "TIDESHAR"
constexpr std::uint64_t beat_magic = 0x5441'4542'4544'4954;   // "TIDEBEAT"
constexpr std::size_t hash_bytes = 8;
constexpr std::string_view prefix = "member.";
constexpr std::size_t uuid_text = 36;
constexpr std::uint64_t longest = std::uint64_t{24} * 3600 * 1000;  // milliseconds

std::span<const std::byte> bytes_of(const Uuid& id) { return std::as_bytes(std::span(id)); }

Uuid uuid_from(Decoder& in) {
  Uuid id{};
  const auto bytes = in.bytes(id.size());
  if (!bytes.empty()) std::memcpy(id.data(), bytes.data(), id.size());
  return id;
}

bool overlap(const Hold& a, const Hold& b) { return a.begin < b.end && b.begin < a.end; }

bool sane(const SharedState& state) {
  for (std::size_t i = 0; i < state.members.size(); ++i) {
    const Member& member = state.members[i];
    if (member.host.size() > Member::host_limit || state.find(member.id) != &member) return false;
  }
  for (std::size_t i = 0; i < state.holds.size(); ++i) {
    const Hold& hold = state.holds[i];
    if (hold.begin >= hold.end || state.find(hold.member) == nullptr) return false;
    for (std::size_t j = 0; j < i; ++j)
      if (state.holds[j].member != hold.member && overlap(state.holds[j], hold)) return false;
  }
  return true;
}

}  // namespace

const Member* SharedState::find(const Uuid& id) const {
  const auto found = std::ranges::find(members, id, &Member::id);
  return found == members.end() ? nullptr : &*found;
}

Member* SharedState::find(const Uuid& id) {
  return const_cast<Member*>(std::as_const(*this).find(id));
}

void SharedState::remove(Uuid id) {
  std::erase_if(members, [&](const Member& member) { return member.id == id; });
  std::erase_if(holds, [&](const Hold& hold) { return hold.member == id; });
}

std::vector<std::byte> encode(const SharedState& state) {
  std::vector<std::byte> bytes(hash_bytes);
  Encoder out(bytes);
  out.u64(state_magic);
  out.u32(SharedState::version);
  out.u32(0);
  out.u64(state.number);
  out.u64(static_cast<std::uint64_t>(state.duration.count()));
  out.i64(state.since_seconds);
  out.u32(static_cast<std::uint32_t>(state.members.size()));
  for (const Member& member : state.members) {
    out.bytes(bytes_of(member.id));
    out.u64(member.serial);
    out.u8(member.fenced ? 1 : 0);
    out.text(std::string_view(member.host).substr(0, Member::host_limit));
  }
  out.u32(static_cast<std::uint32_t>(state.holds.size()));
  for (const Hold& hold : state.holds) {
    out.bytes(bytes_of(hold.member));
    out.u64(hold.id);
    out.u64(hold.begin);
    out.u64(hold.end);
  }
  out.u32(static_cast<std::uint32_t>(state.payload.size()));
  out.bytes(state.payload);
  store_le64(bytes.data(), XXH3_64bits(&bytes[hash_bytes], bytes.size() - hash_bytes));
  return bytes;
}

std::optional<SharedState> decode_shared(std::span<const std::byte> data) {
  if (data.size() < hash_bytes || data.size() > SharedState::most_encoded) return std::nullopt;
  const auto body = data.subspan(hash_bytes);
  if (load_le64(data.data()) != XXH3_64bits(body.data(), body.size())) return std::nullopt;
  Decoder in(body);
  if (in.u64() != state_magic || in.u32() != SharedState::version) return std::nullopt;
  in.u32();
  SharedState state;
  state.number = in.u64();
  const std::uint64_t duration = in.u64();
  state.since_seconds = in.i64();
  const std::uint32_t members = in.u32();
  if (members > SharedState::most_members) return std::nullopt;
  for (std::uint32_t i = 0; i < members && in.ok(); ++i) {
    Member member;
    member.id = uuid_from(in);
    member.serial = in.u64();
    member.fenced = in.u8() != 0;
    member.host = in.text();
    state.members.push_back(std::move(member));
  }
  const std::uint32_t holds = in.u32();
  if (holds > SharedState::most_holds) return std::nullopt;
  for (std::uint32_t i = 0; i < holds && in.ok(); ++i) {
    Hold hold;
    hold.member = uuid_from(in);
    hold.id = in.u64();
    hold.begin = in.u64();
    hold.end = in.u64();
    state.holds.push_back(hold);
  }
  const std::uint32_t payload = in.u32();
  if (payload > SharedState::most_payload) return std::nullopt;
  const auto kept = in.bytes(payload);
  state.payload.assign(kept.begin(), kept.end());
  const bool whole = in.ok() && in.at_end();
  if (!whole || state.number == 0 || duration == 0 || duration > longest || !sane(state))
    return std::nullopt;
  state.duration = std::chrono::milliseconds(duration);
  return state;
}

std::array<std::byte, Beat::encoded_size> encode(const Beat& beat) {
  std::vector<std::byte> bytes(hash_bytes);
  bytes.reserve(Beat::encoded_size);
  Encoder out(bytes);
  out.u64(beat_magic);
  out.u32(Beat::version);
  out.u32(0);
  out.bytes(bytes_of(beat.member));
  out.u64(beat.count);
  out.u64(beat.acknowledged);
  out.u64(static_cast<std::uint64_t>(beat.duration.count()));
  store_le64(bytes.data(), XXH3_64bits(&bytes[hash_bytes], bytes.size() - hash_bytes));
  std::array<std::byte, Beat::encoded_size> encoded{};
  std::ranges::copy(bytes, encoded.begin());
  return encoded;
}

std::optional<Beat> decode_beat(std::span<const std::byte> data) {
  if (data.size() != Beat::encoded_size) return std::nullopt;
  const auto body = data.subspan(hash_bytes);
  if (load_le64(data.data()) != XXH3_64bits(body.data(), body.size())) return std::nullopt;
  Decoder in(body);
  if (in.u64() != beat_magic || in.u32() != Beat::version) return std::nullopt;
  in.u32();
  Beat beat;
  beat.member = uuid_from(in);
  beat.count = in.u64();
  beat.acknowledged = in.u64();
  const std::uint64_t duration = in.u64();
  if (duration == 0 || duration > longest) return std::nullopt;
  beat.duration = std::chrono::milliseconds(duration);
  return beat;
}

std::string member_name(const Uuid& id) { return std::string(prefix) + to_text(id); }

bool is_member_name(std::string_view name) {
  return name.starts_with(prefix) && name.size() == prefix.size() + uuid_text;
}

}  // namespace tidepool::blockdev::lease
