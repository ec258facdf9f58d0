// The rules of hosts that share a disk against a simulated world: members with clocks of their own
// pace, that are stopped at any moment, whose calls take their time and whose answers get lost.
//
// Judges, both at the server. Each write carries the claim that its sender followed when it
// was checked: none may arrive after a member was told that a later claim is settled. And each
// member increments one counter under a hold, by a read and a later write: none of these may
// overwrite what it has not read. Twins: with a rule taken away some seed must show a breach.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <random>

#include "blockdev/lease/shared_member.h"

namespace tidepool::blockdev::lease {
namespace {

using std::chrono::milliseconds;

constexpr LeaseTerms terms{.duration = milliseconds(15'000),
                           .margin = milliseconds(10'000),
                           .renew_every = milliseconds(3'000),
                           .retry_after = milliseconds(500)};
constexpr std::int64_t ms = 1'000'000;
constexpr int hosts = 3;
constexpr double worst_pace = 0.01;
constexpr std::int64_t longest_flight = 8'000 * ms;  // of a write: within the margin

struct Sabotage {
  SharedMember::Sabotage rules;
  bool no_drain = false;  // acknowledged while older writes are under way
};

class World {
 public:
  World(std::uint64_t seed, const Sabotage& sabotage) : sabotage_(sabotage), random_(seed) {
    // As a single owner leaves it that begins to share.
    claims_[1] = {.number = 1, .duration = terms.duration};
    for (int i = 0; i < hosts; ++i) {
      hosts_.push_back(std::make_unique<Host>());
      Host& host = *hosts_.back();
      host.pace = 1 + worst_pace * (2 * uniform() - 1);
      host.offset = below(1'000'000'000) * ms;
      begin(i);
      after(below(30'000) * ms, [this, i] { act(i, hosts_[i]->life); });
      after(below(30'000) * ms, [this, i] { try_to_write(i); });
      after(below(30'000) * ms, [this, i] { want_change(i); });
      after(below(60'000) * ms, [this, i] { disturb(i); });
    }
  }

  void run(std::int64_t until) {
    while (!events_.empty() && events_.top().at <= until && !breach_) {
      const Event event = events_.top();
      events_.pop();
      now_ = event.at;
      event.what();
    }
  }
  bool breach() const { return breach_; }
  std::uint64_t writes() const { return writes_; }
  std::uint64_t changes() const { return changes_; }
  std::uint64_t increments() const { return counter_; }
  std::uint64_t lives() const { return lives_; }

 private:
  struct Event {
    std::int64_t at = 0;
    std::uint64_t order = 0;
    std::function<void()> what;
    bool operator<(const Event& other) const {
      return at != other.at ? at > other.at : order > other.order;
    }
  };
  enum class Want : std::uint8_t { nothing, change, hold, release };
  struct Host {
    double pace = 1;
    std::int64_t offset = 0;
    std::int64_t stopped_until = 0;
    std::unique_ptr<SharedMember> member;
    std::uint64_t life = 0;  // of a program
    // Of the life.
    std::uint64_t follows = 0;                    // the claim by which writes are checked
    std::map<std::uint64_t, unsigned> under_way;  // claim -> writes checked by it
    Want want = Want::nothing;
    std::uint64_t made = 0;  // the claim that holds the change; 0: not yet
    bool proposed = false, incrementing = false;
  };

  double uniform() { return std::uniform_real_distribution<>(0, 1)(random_); }
  std::int64_t below(std::int64_t limit) {
    return std::uniform_int_distribution<std::int64_t>(0, limit - 1)(random_);
  }
  void after(std::int64_t delay, std::function<void()> what) {
    events_.push({now_ + delay, ++order_, std::move(what)});
  }
  void on_host(int i, std::int64_t delay, const std::function<void()>& what) {
    after(delay, [this, i, what] {
      const std::int64_t stopped = hosts_[i]->stopped_until;
      if (stopped > now_) return on_host(i, stopped - now_, what);
      what();
    });
  }
  // As on_host, for who is still the same program then.
  void in_life(int i, std::int64_t delay, const std::function<void()>& what) {
    on_host(i, delay, [this, i, life = hosts_[i]->life, what] {
      if (hosts_[i]->life == life) what();
    });
  }
  Time local(int i) const {
    return Time(hosts_[i]->offset +
                static_cast<std::int64_t>(static_cast<double>(now_) * hosts_[i]->pace));
  }
  std::int64_t latency() { return uniform() < 0.01 ? below(20'000) * ms : below(20) * ms; }
  std::int64_t flight() { return uniform() < 0.05 ? below(longest_flight) : below(5 * ms); }

  void call(int i, const std::function<void()>& at_server, const std::function<void(bool)>& then) {
    const bool lost = uniform() < 0.02;
    const bool carried_out = !lost || uniform() < 0.5;
    const std::int64_t there = latency(), back = latency();
    if (carried_out) after(there, at_server);
    in_life(i, there + back + (lost ? 2'000 * ms : 0), [then, lost] { then(!lost); });
  }

  void begin(int i) {
    Host& host = *hosts_[i];
    ++host.life;
    ++lives_;
    Uuid id{};
    for (auto& byte : id) byte = static_cast<std::uint8_t>(below(256));
    host.member = std::make_unique<SharedMember>(terms, milliseconds(20), milliseconds(250),
                                                 Member{.id = id, .host = "host"}, sabotage_.rules);
    host.follows = 0;
    host.under_way.clear();
    host.want = Want::nothing;
    host.made = 0;
    host.proposed = host.incrementing = false;
  }

  void act(int i, std::uint64_t life) {
    Host& host = *hosts_[i];
    if (host.life != life) return;
    SharedMember& member = *host.member;
    follow(i);
    propose(i);
    if (member.phase() == SharedMember::Phase::lost) {
      // What it had sent is under way as before.
      begin(i);
      return in_life(i, 1'000 * ms, [this, i] { act(i, hosts_[i]->life); });
    }
    const SharedMember::Step step = member.next();
    const Time began = local(i);
    if (step.at > began) {
      // Not to the end: it may be told of something new.
      const auto left = static_cast<double>((step.at - began).count()) / host.pace;
      const auto wait = std::min<std::int64_t>(static_cast<std::int64_t>(left) + 1, 100 * ms);
      return in_life(i, wait, [this, i, life] { act(i, life); });
    }
    switch (step.what) {
      case SharedMember::Do::beat: {
        const auto encoded = encode(member.beat());
        return call(
            i,
            [this, id = member.id(), first = member.is_first_beat(),
             bytes = std::vector<std::byte>(encoded.begin(), encoded.end())] {
              if (first || files_.contains(id)) files_[id] = bytes;
            },
            [this, i, life, began](bool answered) {
              SharedMember& self = *hosts_[i]->member;
              answered ? self.beaten(began, local(i)) : self.failed(local(i));
              act(i, life);
            });
      }
      case SharedMember::Do::look:
        return look(i, life, began);
      case SharedMember::Do::create: {
        auto exists = std::make_shared<bool>(false);
        return call(
            i,
            [this, exists, state = member.proposal()] {
              *exists = !claims_.emplace(state.number, state).second;
            },
            [this, i, life, exists](bool answered) {
              using Creation = LeaseState::Creation;
              hosts_[i]->member->created(local(i), !answered ? Creation::unknown
                                                   : *exists ? Creation::exists
                                                             : Creation::made);
              act(i, life);
            });
      }
      case SharedMember::Do::nothing:
        return;
    }
  }

  void look(int i, std::uint64_t life, Time began) {
    auto sight = std::make_shared<SharedSight>();
    call(
        i,
        [this, sight] {
          sight->number = claims_.rbegin()->first;
          sight->state = claims_.rbegin()->second;
        },
        [this, i, life, began, sight](bool answered) {
          if (!answered) {
            hosts_[i]->member->failed(local(i));
            return act(i, life);
          }
          call(
              i,
              [this, i, sight] {
                for (const Member& member : sight->state->members)
                  if (member.id != hosts_[i]->member->id())
                    sight->beats[member.id] = files_[member.id];
              },
              [this, i, life, began, sight](bool there) {
                SharedMember& self = *hosts_[i]->member;
                if (there)
                  self.looked(began, local(i), std::move(*sight));
                else
                  self.failed(local(i));
                act(i, life);
              });
        });
  }

  // New writes are checked by the newest claim; older ones are to end before it is acknowledged.
  void follow(int i) {
    Host& host = *hosts_[i];
    SharedMember& member = *host.member;
    if (!member.state()) return;
    host.follows = std::max(host.follows, member.state()->number);
    if (sabotage_.no_drain) return member.acknowledge(host.follows);
    const std::uint64_t oldest =
        host.under_way.empty() ? host.follows : host.under_way.begin()->first;
    member.acknowledge(std::min(oldest, host.follows));
  }

  void propose(int i) {
    Host& host = *hosts_[i];
    SharedMember& member = *host.member;
    if (host.proposed && member.outcome()) {
      host.proposed = false;
      if (!*member.outcome()) host.made = 0;
    }
    if (host.made != 0 && !host.proposed && member.settled() >= host.made) settled(i);
    if (host.made != 0) member.hurry();
    auto draft = member.draft();
    if (!draft) return;
    bool worth = draft->worth, mine = false;
    SharedState& state = draft->state;
    if (host.made == 0 && member.phase() == SharedMember::Phase::active) {
      if (host.want == Want::change) mine = true;
      if (host.want == Want::hold && state.holds.empty()) {
        state.holds.push_back({.member = member.id(), .id = 1, .begin = 0, .end = 1});
        mine = true;
      }
      if (host.want == Want::release) {
        std::erase_if(state.holds, [&](const Hold& hold) { return hold.member == member.id(); });
        mine = true;
      }
    }
    if (!worth && !mine) return;
    if (mine) {
      host.made = state.number;
      host.proposed = true;
    }
    member.propose(std::move(state));
  }

  void settled(int i) {
    Host& host = *hosts_[i];
    ++changes_;
    const std::uint64_t number = std::exchange(host.made, 0);
    const Want done = std::exchange(host.want, Want::nothing);
    settled_ = std::max(settled_, number);
    if (done == Want::hold) increment(i);
  }

  void increment(int i) {
    hosts_[i]->incrementing = true;
    auto value = std::make_shared<std::uint64_t>(0);
    const std::int64_t there = flight(), back = latency();
    after(there, [this, value] { *value = counter_; });
    in_life(i, there + back, [this, i, value] { write_increment(i, *value); });
  }
  void write_increment(int i, std::uint64_t value) {
    Host& host = *hosts_[i];
    if (host.member->phase() == SharedMember::Phase::lost) return;
    if (!host.member->may_write(local(i)))
      return in_life(i, 100 * ms, [this, i, value] { write_increment(i, value); });
    const std::int64_t there = flight();
    after(there, [this, value] {
      breach_ = breach_ || counter_ != value;
      counter_ = value + 1;
    });
    in_life(i, there + latency(), [this, i] {
      hosts_[i]->incrementing = false;
      hosts_[i]->want = Want::release;
    });
  }

  void try_to_write(int i) {
    Host& host = *hosts_[i];
    if (host.member->may_write(local(i))) {
      const std::uint64_t claim = host.follows;
      ++host.under_way[claim];
      const std::int64_t there = flight();
      after(there, [this, claim] {
        ++writes_;
        breach_ = breach_ || claim < settled_;
      });
      in_life(i, there + latency(), [this, i, claim] {
        auto& under_way = hosts_[i]->under_way;
        if (--under_way[claim] == 0) under_way.erase(claim);
      });
    }
    on_host(i, below(500) * ms, [this, i] { try_to_write(i); });
  }

  void want_change(int i) {
    Host& host = *hosts_[i];
    if (host.want == Want::nothing && !host.incrementing)
      host.want = uniform() < 0.5 ? Want::change : Want::hold;
    on_host(i, below(2'000) * ms, [this, i] { want_change(i); });
  }

  // SIGSTOP and SIGCONT, or a kill; old claims go now and then.
  void disturb(int i) {
    const std::int64_t length = below(uniform() < 0.5 ? 5'000 : 120'000) * ms;
    hosts_[i]->stopped_until = std::max(hosts_[i]->stopped_until, now_ + length);
    if (uniform() < 0.2) {
      begin(i);
      in_life(i, 0, [this, i] { act(i, hosts_[i]->life); });
    }
    if (uniform() < 0.5) claims_.erase(claims_.begin(), std::prev(claims_.end()));
    after(length + below(180'000) * ms, [this, i] { disturb(i); });
  }

  const Sabotage sabotage_;
  std::mt19937_64 random_;
  std::int64_t now_ = 0;
  std::uint64_t order_ = 0;
  std::priority_queue<Event> events_;
  std::vector<std::unique_ptr<Host>> hosts_;
  std::map<std::uint64_t, SharedState> claims_;
  std::map<Uuid, std::vector<std::byte>> files_;
  std::uint64_t counter_ = 0, writes_ = 0, changes_ = 0, settled_ = 0, lives_ = 0;
  bool breach_ = false;
};

struct Outcome {
  std::uint64_t first_bad_seed = 0, writes = 0, changes = 0, increments = 0, lives = 0;
};

// Until there is a breach, or all of the seeds are done.
Outcome run_worlds(int count, const Sabotage& sabotage) {
  Outcome out;
  for (int seed = 1; seed <= count && out.first_bad_seed == 0; ++seed) {
    World world(static_cast<std::uint64_t>(seed), sabotage);
    world.run(std::int64_t{3'600'000} * ms);  // an hour
    if (world.breach()) out.first_bad_seed = static_cast<std::uint64_t>(seed);
    out.writes += world.writes();
    out.changes += world.changes();
    out.increments += world.increments();
    out.lives += world.lives();
  }
  return out;
}

TEST(SharedSimulation, NobodyFollowsAnOldClaimAndNoIncrementIsLost) {
  constexpr unsigned worlds = 20;
  const Outcome outcome = run_worlds(worlds, {});
  EXPECT_EQ(outcome.first_bad_seed, 0U) << "seed " << outcome.first_bad_seed;
  // And much was done, also by members that came anew.
  EXPECT_GT(outcome.writes, worlds * 5'000);
  EXPECT_GT(outcome.changes, worlds * 200);
  EXPECT_GT(outcome.increments, worlds * 50);
  EXPECT_GT(outcome.lives, worlds * 10);
  RecordProperty("writes", std::to_string(outcome.writes));
  RecordProperty("changes", std::to_string(outcome.changes));
  RecordProperty("increments", std::to_string(outcome.increments));
  RecordProperty("lives", std::to_string(outcome.lives));
}

TEST(SharedSimulation, WithoutSelfFencingThereIsABreach) {
  EXPECT_NE(run_worlds(100, {.rules = {.no_self_fencing = true}}).first_bad_seed, 0U);
}

TEST(SharedSimulation, WithoutAcknowledgementsThereIsABreach) {
  EXPECT_NE(run_worlds(100, {.rules = {.no_acknowledgements = true}}).first_bad_seed, 0U);
}

TEST(SharedSimulation, WithoutASecondLookThereIsABreach) {
  EXPECT_NE(run_worlds(400, {.rules = {.no_second_look = true}}).first_bad_seed, 0U);
}

TEST(SharedSimulation, WithoutALookAfterTheCreationThereIsABreach) {
  EXPECT_NE(run_worlds(100, {.rules = {.no_look_after_creation = true}}).first_bad_seed, 0U);
}

TEST(SharedSimulation, WithoutDrainingThereIsABreach) {
  EXPECT_NE(run_worlds(100, {.no_drain = true}).first_bad_seed, 0U);
}

}  // namespace
}  // namespace tidepool::blockdev::lease
