#include "blockdev/lease/shared_claims.h"

#define XXH_INLINE_ALL
#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>

namespace tidepool::blockdev::lease {

namespace {

// A claim that others replace while it is looked for.
constexpr int tries = 5;

std::uint64_t highest_of(const std::vector<std::string>& names) {
  std::uint64_t highest = 0;
  for (const std::string& name : names) highest = std::max(highest, claim_number(name));
  return highest;
}

// Empty: there is none.
Result<std::vector<std::byte>> read_beat(Directory& directory, const Uuid& id) {
  auto bytes = directory.read(member_name(id), Beat::encoded_size);
  if (!bytes && bytes.error().kind == ErrorKind::not_found) return std::vector<std::byte>();
  return bytes;
}

}  // namespace

Result<SharedSight> look_at_shared(Directory& directory, const Uuid& self,
                                   const std::optional<SharedState>& known,
                                   std::vector<std::string>& names) {
  SharedSight sight;
  for (int left = tries;; --left) {
    auto listed = directory.list();
    if (!listed) return std::unexpected(listed.error());
    names = std::move(*listed);
    sight.number = highest_of(names);
    if (sight.number == 0) return sight;
    if (known && known->number == sight.number) {
      sight.state = known;
      break;
    }
    auto content = directory.read(claim_name(sight.number), SharedState::most_encoded + 1);
    if (!content && content.error().kind == ErrorKind::not_found && left > 1) continue;
    if (!content) return std::unexpected(content.error());
    sight.state = decode_shared(*content);
    if (sight.state && sight.state->number != sight.number) sight.state.reset();
    break;
  }
  if (!sight.state) return sight;
  for (const Member& member : sight.state->members) {
    if (member.id == self) continue;
    auto bytes = read_beat(directory, member.id);
    if (!bytes) return std::unexpected(bytes.error());
    sight.beats.emplace(member.id, std::move(*bytes));
  }
  return sight;
}

Result<Claim> as_single_claim(Directory& directory, const SharedState& state) {
  Claim claim{.number = state.number,
              .state = state.members.empty() ? ClaimState::released : ClaimState::held,
              .duration = state.duration,
              .since_seconds = state.since_seconds};
  claim.owner.fill(0xff);  // nobody's
  std::string hosts;
  for (const Member& member : state.members) {
    hosts += (hosts.empty() ? "" : ", ") + member.host;
    const auto bytes = read_beat(directory, member.id);
    if (!bytes) return std::unexpected(bytes.error());
    claim.beat = XXH3_64bits_withSeed(bytes->data(), bytes->size(), claim.beat);
  }
  claim.host = fmt::format("{} that share{} it ({})", state.members.size(),
                           state.members.size() == 1 ? "s" : "", hosts);
  return claim;
}

Result<std::optional<SharedState>> shared_before(Directory& directory, std::uint64_t below) {
  const auto names = directory.list();
  if (!names) return std::unexpected(names.error());
  std::optional<SharedState> found;
  for (const std::string& name : *names) {
    const std::uint64_t number = claim_number(name);
    if (number == 0 || number >= below || (found && number < found->number)) continue;
    const auto content = directory.read(name, SharedState::most_encoded + 1);
    if (!content && content.error().kind == ErrorKind::not_found) continue;
    if (!content) return std::unexpected(content.error());
    if (auto state = decode_shared(*content); state && state->number == number) found = state;
  }
  return found;
}

Result<> remove_claims(Directory& directory, const std::vector<std::string>& names,
                       std::uint64_t below) {
  Result<> all;
  for (const std::string& name : names) {
    const std::uint64_t number = claim_number(name);
    if (number == 0 || number >= below) continue;
    auto removed = directory.remove(name);
    if (!removed && removed.error().kind != ErrorKind::not_found && all) all = std::move(removed);
  }
  return all;
}

}  // namespace tidepool::blockdev::lease
