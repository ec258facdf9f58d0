#include "blockdev/lease/lease_state.h"

#include <algorithm>
#include <utility>

namespace tidepool::blockdev::lease {

LeaseState::LeaseState(const LeaseTerms& terms, std::string host, std::int64_t since_seconds,
                       const Sabotage& sabotage)
    : terms_(terms), sabotage_(sabotage) {
  claim_.host = std::move(host);
  claim_.duration = terms.duration;
  claim_.since_seconds = since_seconds;
}

void LeaseState::looked(Time began, Time ended, const Sight& sight) {
  if (sight.number == 0) return claim_next(0, Time(0));
  auto rival = decode_claim(sight.content);
  if (rival && rival->number != sight.number) rival.reset();  // not what its name says
  const bool is_mine = rival && claim_.number == sight.number && rival->owner == claim_.owner;
  if (is_mine) return created(ended, Creation::made);  // its answer had been lost
  if (rival && rival->state == ClaimState::released) return claim_next(sight.number, Time(0));
  const bool known = seen_.number != 0;
  if (!known || seen_.number != sight.number || seen_.content != sight.content) {
    // A first sight proves nothing: the owner may be long gone.
    rival_lives_ = known;
    rival_ = std::move(rival);
    seen_ = sight;
    seen_since_ = ended;
    next_ = {Do::look, ended + terms_.renew_every};
    return;
  }
  const Time lasts = std::max(terms_.duration, rival ? rival->duration : terms_.duration);
  if (began - seen_since_ >= lasts + terms_.margin) return claim_next(sight.number, lasts);
  next_ = {Do::look,
           std::min(ended + Time(terms_.renew_every), seen_since_ + lasts + terms_.margin)};
}

void LeaseState::claim_next(std::uint64_t after, Time predecessor_lasts) {
  claim_.number = after + 1;
  claim_.owner = new_uuid();
  claim_.beat = 0;
  predecessor_lasts_ = predecessor_lasts;
  next_ = {Do::create, Time(0)};
}

void LeaseState::created(Time ended, Creation how) {
  if (how != Creation::made) {
    // Unknown: the next look tells whose it is.
    if (how == Creation::exists) claim_.owner = {};
    next_ = {Do::look, how == Creation::unknown ? ended + terms_.retry_after : Time(0)};
    return;
  }
  phase_ = Phase::waiting;
  // Every look that the predecessor begins from now on finds my claim; what it had renewed
  // before is over then.
  const bool waits = predecessor_lasts_ != Time(0) && !sabotage_.no_wait_after_claim;
  not_before_ = waits ? ended + predecessor_lasts_ + terms_.margin : ended;
  next_ = {Do::renew, Time(0)};
  ++claim_.beat;
}

void LeaseState::renewed(Time began, Time ended, const Sight& sight) {
  const auto found = decode_claim(sight.content);
  const bool mine = sight.number == claim_.number && found && found->owner == claim_.owner;
  if (!mine && !sabotage_.no_look_after_renewal) {
    if (phase_ == Phase::holding) {
      phase_ = Phase::lost;
      next_ = {};
    } else {
      // Never mine to write: a higher claim was there before, or came while I was stopped.
      phase_ = Phase::looking;
      seen_ = {};
      next_ = {Do::look, Time(0)};
    }
    return;
  }
  valid_until_ = began + terms_.duration;
  ++claim_.beat;
  const Time renewal = began + terms_.renew_every;
  if (ended >= not_before_) {
    phase_ = Phase::holding;
    next_ = {Do::renew, renewal};
  } else {
    next_ = {Do::renew, std::min(renewal, not_before_)};
  }
}

void LeaseState::failed(Time ended) {
  ++claim_.beat;  // what failed may have been written all the same
  next_.at = ended + terms_.retry_after;
}

}  // namespace tidepool::blockdev::lease
