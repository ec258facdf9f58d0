// The rules of the lease against a simulated world: contenders with clocks of their own pace,
// that are stopped at any moment, whose calls take their time and whose answers get lost.
//
// Judge: the server's log of writes. Each carries the token of its sender, and no token may
// arrive after a higher one. Twins: with a rule taken away, some seed must show two writers.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <random>

#include "blockdev/lease/lease_state.h"

namespace tidepool::blockdev::lease {
namespace {

using std::chrono::milliseconds;

constexpr LeaseTerms terms{.duration = milliseconds(15'000),
                           .margin = milliseconds(10'000),
                           .renew_every = milliseconds(3'000),
                           .retry_after = milliseconds(500)};
constexpr std::int64_t ms = 1'000'000;
constexpr int contenders = 3;
constexpr double worst_pace = 0.01;                  // clocks run apart by so much at most
constexpr std::int64_t longest_flight = 8'000 * ms;  // of a write: within the margin

class World {
 public:
  World(std::uint64_t seed, const LeaseState::Sabotage& sabotage)
      : sabotage_(sabotage), random_(seed) {
    for (int i = 0; i < contenders; ++i) {
      hosts_.push_back(std::make_unique<Host>());
      Host& host = *hosts_.back();
      host.pace = 1 + worst_pace * (2 * uniform() - 1);
      host.offset = below(1'000'000'000) * ms;
      host.state = std::make_unique<LeaseState>(terms, "host", 0, sabotage);
      after(below(30'000) * ms, [this, i] { act(i); });
      after(below(30'000) * ms, [this, i] { try_to_write(i); });
      after(below(60'000) * ms, [this, i] { disturb(i); });
    }
  }

  void run(std::int64_t until) {
    while (!events_.empty() && events_.top().at <= until) {
      const Event event = events_.top();
      events_.pop();
      now_ = event.at;
      event.what();
    }
  }
  bool two_writers() const { return two_writers_; }
  std::uint64_t writes() const { return writes_; }
  std::uint64_t highest_token() const { return highest_token_; }

 private:
  struct Event {
    std::int64_t at = 0;
    std::uint64_t order = 0;
    std::function<void()> what;
    bool operator<(const Event& other) const {
      return at != other.at ? at > other.at : order > other.order;
    }
  };
  struct Host {
    double pace = 1;
    std::int64_t offset = 0;
    std::int64_t stopped_until = 0;
    std::unique_ptr<LeaseState> state;
  };

  double uniform() { return std::uniform_real_distribution<>(0, 1)(random_); }
  std::int64_t below(std::int64_t limit) {
    return std::uniform_int_distribution<std::int64_t>(0, limit - 1)(random_);
  }
  void after(std::int64_t delay, std::function<void()> what) {
    events_.push({now_ + delay, ++order_, std::move(what)});
  }
  // Continues on the host: once it is not stopped.
  void on_host(int i, std::int64_t delay, const std::function<void()>& what) {
    after(delay, [this, i, what] {
      const std::int64_t stopped = hosts_[i]->stopped_until;
      if (stopped > now_) return on_host(i, stopped - now_, what);
      what();
    });
  }
  Time local(int i) const {
    return Time(hosts_[i]->offset +
                static_cast<std::int64_t>(static_cast<double>(now_) * hosts_[i]->pace));
  }
  // On its way for mostly a moment, seldom for long.
  std::int64_t latency() { return uniform() < 0.02 ? below(20'000) * ms : below(20) * ms; }

  Sight sight() const {
    if (files_.empty()) return {};
    const auto& [number, content] = *files_.rbegin();
    return {number, content};
  }

  // A call: reaches the server after a while, which answers after another; or not.
  void call(int i, const std::function<void()>& at_server, const std::function<void(bool)>& then) {
    const bool lost = uniform() < 0.03;
    const bool carried_out = !lost || uniform() < 0.5;
    const std::int64_t there = latency(), back = latency();
    if (carried_out) after(there, at_server);
    on_host(i, there + back + (lost ? 2'000 * ms : 0), [then, lost] { then(!lost); });
  }

  void act(int i) {
    Host& host = *hosts_[i];
    const LeaseState::Step step = host.state->next();
    if (host.state->phase() == LeaseState::Phase::lost) {
      // As a program that was started anew.
      host.state = std::make_unique<LeaseState>(terms, "host", 0, sabotage_);
      return on_host(i, 1'000 * ms, [this, i] { act(i); });
    }
    const Time began = local(i);
    if (step.at > began) {
      const auto left = static_cast<double>((step.at - began).count()) / host.pace;
      return on_host(i, static_cast<std::int64_t>(left) + 1, [this, i] { act(i); });
    }
    const Claim claim = host.state->claim();
    const auto encoded = encode(claim);
    const std::vector<std::byte> content(encoded.begin(), encoded.end());
    auto seen = std::make_shared<Sight>();
    const auto look = [this, i, began, seen](bool renewal) {
      call(
          i, [this, seen] { *seen = sight(); },
          [this, i, began, seen, renewal](bool answered) {
            LeaseState& state = *hosts_[i]->state;
            if (!answered)
              state.failed(local(i));
            else if (renewal)
              state.renewed(began, local(i), *seen);
            else
              state.looked(began, local(i), *seen);
            act(i);
          });
    };
    switch (step.what) {
      case LeaseState::Do::look:
        return look(false);
      case LeaseState::Do::create: {
        auto exists = std::make_shared<bool>(false);
        return call(
            i,
            [this, claim, content, exists] {
              *exists = !files_.emplace(claim.number, content).second;
            },
            [this, i, exists](bool answered) {
              using Creation = LeaseState::Creation;
              hosts_[i]->state->created(local(i), !answered ? Creation::unknown
                                                  : *exists ? Creation::exists
                                                            : Creation::made);
              act(i);
            });
      }
      case LeaseState::Do::renew:
        return call(
            i,
            [this, claim, content] {
              if (files_.contains(claim.number)) files_[claim.number] = content;
            },
            [this, i, look](bool answered) {
              if (answered) return look(true);
              hosts_[i]->state->failed(local(i));
              act(i);
            });
      case LeaseState::Do::nothing:
        return;
    }
  }

  void try_to_write(int i) {
    const Host& host = *hosts_[i];
    if (host.state->may_write(local(i))) {
      const std::uint64_t token = host.state->claim().number;
      const std::int64_t flight = uniform() < 0.05 ? below(longest_flight) : below(5 * ms);
      after(flight, [this, token] {
        ++writes_;
        two_writers_ = two_writers_ || token < highest_token_;
        highest_token_ = std::max(highest_token_, token);
      });
    }
    on_host(i, below(1'000) * ms, [this, i] { try_to_write(i); });
  }

  // SIGSTOP and SIGCONT; a clean-up of old claims now and then.
  void disturb(int i) {
    const std::int64_t length = below(uniform() < 0.5 ? 5'000 : 120'000) * ms;
    hosts_[i]->stopped_until = std::max(hosts_[i]->stopped_until, now_ + length);
    LeaseState& state = *hosts_[i]->state;
    if (state.phase() == LeaseState::Phase::holding && !files_.empty()) {
      const auto highest = std::prev(files_.end());
      if (uniform() < 0.5) files_.erase(files_.begin(), highest);
    }
    after(length + below(120'000) * ms, [this, i] { disturb(i); });
  }

  const LeaseState::Sabotage sabotage_;
  std::mt19937_64 random_;
  std::int64_t now_ = 0;
  std::uint64_t order_ = 0;
  std::priority_queue<Event> events_;
  std::vector<std::unique_ptr<Host>> hosts_;
  std::map<std::uint64_t, std::vector<std::byte>> files_;
  std::uint64_t writes_ = 0, highest_token_ = 0;
  bool two_writers_ = false;
};

struct Outcome {
  std::uint64_t first_bad_seed = 0, writes = 0, tokens = 0;
};

// Until there are two writers, or all of the seeds are done.
Outcome run_worlds(int count, const LeaseState::Sabotage& sabotage) {
  Outcome out;
  for (int seed = 1; seed <= count && out.first_bad_seed == 0; ++seed) {
    World world(static_cast<std::uint64_t>(seed), sabotage);
    world.run(std::int64_t{3'600'000} * ms);  // an hour
    if (world.two_writers()) out.first_bad_seed = static_cast<std::uint64_t>(seed);
    out.writes += world.writes();
    out.tokens += world.highest_token();
  }
  return out;
}

TEST(LeaseSimulation, NeverTwoWriters) {
  constexpr unsigned worlds = 60;
  const Outcome outcome = run_worlds(worlds, {});
  EXPECT_EQ(outcome.first_bad_seed, 0U);
  // And the lease moved, and was used.
  EXPECT_GT(outcome.tokens, worlds * 3);
  EXPECT_GT(outcome.writes, worlds * 1'000);
}

TEST(LeaseSimulation, WithoutSelfFencingThereAreTwo) {
  EXPECT_NE(run_worlds(100, {.no_self_fencing = true}).first_bad_seed, 0U);
}

TEST(LeaseSimulation, WithoutTheWaitAfterTheClaimThereAreTwo) {
  EXPECT_NE(run_worlds(400, {.no_wait_after_claim = true}).first_bad_seed, 0U);
}

TEST(LeaseSimulation, WithoutALookAfterTheRenewalThereAreTwo) {
  EXPECT_NE(run_worlds(100, {.no_look_after_renewal = true}).first_bad_seed, 0U);
}

}  // namespace
}  // namespace tidepool::blockdev::lease
