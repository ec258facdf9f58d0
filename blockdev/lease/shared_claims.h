// The files of shared claims in a lock directory: how they are looked at and made.
//
// Blocking; one thread at a time.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "blockdev/directory.h"
#include "blockdev/lease/lease_state.h"
#include "blockdev/lease/shared_member.h"

namespace tidepool::blockdev::lease {

// The highest claim and the beats of its members but `self`; the claim is not read again if it
// is `known`. What there is in the directory is in `names`.
Result<SharedSight> look_at_shared(Directory& directory, const Uuid& self,
                                   const std::optional<SharedState>& known,
                                   std::vector<std::string>& names);

// As a contender for the whole disk sees it: one claim, that changes as long as any member lives.
Result<Claim> as_single_claim(Directory& directory, const SharedState& state);

// The highest shared claim below `below`, if there is one.
Result<std::optional<SharedState>> shared_before(Directory& directory, std::uint64_t below);

// Removes the claims below `below`, as far as can be; the first error.
Result<> remove_claims(Directory& directory, const std::vector<std::string>& names,
                       std::uint64_t below);

}  // namespace tidepool::blockdev::lease
