#include "blockdev/lease/shared_member.h"

#include <algorithm>
#include <utility>

namespace tidepool::blockdev::lease {

SharedMember::SharedMember(const LeaseTerms& terms, Time fast, Time slow, const Member& self,
                           const Sabotage& sabotage)
    : terms_(terms), fast_(fast), slow_(slow), sabotage_(sabotage), self_(self) {}

SharedMember::Step SharedMember::next() const {
  if (phase_ == Phase::lost) return {};
  const bool late_acknowledgement = acknowledged_ != written_acknowledgement_;
  Step step{Do::beat, late_acknowledgement ? Time(0) : next_beat_};
  // A beat counts once a look has followed it.
  if (const Time look = beat_began_ ? std::min(next_look_, next_beat_) : next_look_; look < step.at)
    step = {Do::look, look};
  if (proposal_ && !looks_first_ && next_create_ <= step.at) step = {Do::create, next_create_};
  step.at = std::max(step.at, retry_at_);
  return step;
}

Beat SharedMember::beat() const {
  return {.member = self_.id,
          .count = count_ + 1,
          .acknowledged = acknowledged_,
          .duration = terms_.duration};
}

void SharedMember::beaten(Time began, Time ended) {
  ++count_;
  written_acknowledgement_ = acknowledged_;
  beat_began_ = began;
  next_beat_ = began + terms_.renew_every;
  next_look_ = std::min(next_look_, ended);
}

void SharedMember::failed(Time ended) {
  retry_at_ = ended + terms_.retry_after;
  // What failed may have been done all the same.
  if (count_ > 0) ++count_;
}

bool SharedMember::silent(const Peer& peer) const {
  return peer.last_look - peer.since >= peer.lasts + terms_.margin;
}

// Cannot write any more: it was to go, and has said nothing since long before that was known. Each
// of its beats is followed by a look, which finds that it is to go.
bool SharedMember::gone(const Member& member) const {
  if (!member.fenced) return false;
  if (sabotage_.no_second_look) return true;
  const auto peer = peers_.find(member.id);
  return peer != peers_.end() && peer->second.fenced_seen >= Time(0) &&
         peer->second.last_look >= peer->second.fenced_seen && silent(peer->second);
}

void SharedMember::looked(Time began, Time ended, SharedSight sight) {
  if (phase_ == Phase::lost) return;
  looks_first_ = false;
  const bool older = state_ && sight.number < state_->number;
  if (!older && !sight.state) {
    phase_ = Phase::lost;
    proposal_.reset();
    return;
  }
  if (!older) {
    const bool news = !state_ || sight.number != state_->number;
    for (auto& [id, bytes] : sight.beats) {
      auto [entry, is_new] = peers_.try_emplace(id);
      Peer& peer = entry->second;
      if (is_new || peer.bytes != bytes) {
        peer.bytes = std::move(bytes);
        peer.since = ended;
        const auto beat = decode_beat(peer.bytes);
        peer.lasts = std::max(Time(terms_.duration), Time(sight.state->duration));
        if (beat && beat->member == id) {
          peer.acknowledged = std::max(peer.acknowledged, beat->acknowledged);
          peer.lasts = std::max(peer.lasts, Time(beat->duration));
        }
      }
      peer.last_look = began;
    }
    if (news) adopt(std::move(*sight.state), ended);
  }
  if (beat_began_ && !older && phase_ == Phase::active) {
    valid_until_ = *beat_began_ + terms_.duration;
    beat_began_.reset();
  }
  const bool busy = proposal_ || std::exchange(hurried_, false) || ended < busy_until_;
  last_look_ = ended;
  next_look_ = ended + (busy ? fast_ : slow_);
}

void SharedMember::hurry() {
  hurried_ = true;
  next_look_ = std::min(next_look_, last_look_ + fast_);
}

void SharedMember::adopt(SharedState state, Time ended) {
  state_ = std::move(state);
  const bool is_change = phase_ == Phase::active;
  std::erase_if(peers_, [&](const auto& peer) { return state_->find(peer.first) == nullptr; });
  for (const Member& member : state_->members) {
    if (member.id == self_.id) continue;
    Peer& peer = peers_[member.id];
    if (!member.fenced)
      peer.fenced_seen = Time(-1);
    else if (peer.fenced_seen < Time(0))
      peer.fenced_seen = ended;
  }
  resolve_proposal();
  const Member* const me = state_->find(self_.id);
  if (me != nullptr && !me->fenced) {
    phase_ = Phase::active;
  } else if (me != nullptr || is_change) {
    phase_ = Phase::lost;
    proposal_.reset();
  }
  busy_until_ = ended + std::max(Time(terms_.retry_after), 4 * slow_);
  next_look_ = std::min(next_look_, ended + fast_);
}

void SharedMember::resolve_proposal() {
  if (!proposal_ || state_->number < proposal_->number) return;
  const Member* const me = state_->find(self_.id);
  const Member* const wanted = proposal_->find(self_.id);
  // A farewell is in the state when I am not.
  outcome_ = wanted == nullptr ? me == nullptr : me != nullptr && me->serial >= wanted->serial;
  proposal_.reset();
}

void SharedMember::created(Time ended, LeaseState::Creation how) {
  if (how == LeaseState::Creation::made && sabotage_.no_look_after_creation)
    return adopt(SharedState(*proposal_), ended);
  // Also one that is made may be none: a lower claim than the highest, which had been removed.
  looks_first_ = true;
  next_look_ = how == LeaseState::Creation::unknown ? ended + terms_.retry_after : ended;
  next_create_ = next_look_;
}

void SharedMember::acknowledge(std::uint64_t number) {
  acknowledged_ = std::max(acknowledged_, number);
}

std::uint64_t SharedMember::settled() const {
  if (!state_) return 0;
  std::uint64_t least = state_->number;
  if (sabotage_.no_acknowledgements) return least;
  for (const Member& member : state_->members) {
    if (member.id == self_.id) {
      least = std::min(least, acknowledged_);
    } else if (!gone(member)) {
      const auto peer = peers_.find(member.id);
      least = std::min(least, peer == peers_.end() ? 0 : peer->second.acknowledged);
    }
  }
  return least;
}

std::optional<SharedMember::Draft> SharedMember::draft() const {
  // My file is to be there before my entry is: without it I look as one who has gone.
  if (!state_ || phase_ == Phase::lost || proposal_ || count_ == 0) return std::nullopt;
  Draft draft{.state = *state_};
  ++draft.state.number;
  draft.state.duration = std::max(draft.state.duration, terms_.duration);
  std::vector<Uuid> leaving;
  for (Member& member : draft.state.members) {
    if (member.id == self_.id) continue;
    if (gone(member)) leaving.push_back(member.id);
    const auto peer = peers_.find(member.id);
    if (!member.fenced && peer != peers_.end() && silent(peer->second)) {
      member.fenced = true;
      draft.worth = true;
    }
  }
  for (const Uuid& id : leaving) {
    draft.state.remove(id);
    draft.worth = true;
  }
  if (draft.state.find(self_.id) == nullptr) {
    if (draft.state.members.size() == SharedState::most_members) return std::nullopt;
    draft.state.members.push_back(self_);
    draft.worth = true;
  }
  ++draft.state.find(self_.id)->serial;
  return draft;
}

void SharedMember::propose(SharedState state) {
  proposal_ = std::move(state);
  outcome_.reset();
  next_create_ = Time(0);
}

}  // namespace tidepool::blockdev::lease
