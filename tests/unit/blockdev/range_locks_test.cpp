#include "blockdev/range_locks.h"

#include <gtest/gtest.h>

#include <deque>
#include <random>
#include <vector>

namespace tidepool::blockdev {
namespace {

struct Lock : RangeLock {
  Lock(std::uint64_t from, std::uint64_t to, bool alone) {
    begin = from;
    end = to;
    exclusive = alone;
    granted = [](RangeLock& self) { static_cast<Lock&>(self).held = true; };
  }
  bool held = false;
};

struct RangeLocksTest : testing::Test {
  void take(Lock& lock) { lock.held = locks.acquire(lock); }
  RangeLocks locks;
};

TEST_F(RangeLocksTest, SharedOnesOverlap) {
  Lock a(0, 10, false), b(5, 15, false);
  take(a);
  take(b);
  EXPECT_TRUE(a.held && b.held);
  EXPECT_FALSE(locks.idle());
  locks.release(a);
  locks.release(b);
  EXPECT_TRUE(locks.idle());
}

TEST_F(RangeLocksTest, AnExclusiveOneHasItsRangeAlone) {
  Lock a(0, 10, true), overlapping(9, 12, false), beside(10, 12, true);
  take(a);
  take(overlapping);
  EXPECT_FALSE(overlapping.held);
  locks.release(a);
  EXPECT_TRUE(overlapping.held);
  take(beside);
  EXPECT_FALSE(beside.held);
  locks.release(overlapping);
  EXPECT_TRUE(beside.held);
  locks.release(beside);
  EXPECT_TRUE(locks.idle());
}

// A stream of shared locks does not starve an exclusive one.
TEST_F(RangeLocksTest, LaterOnesQueueBehindAWaiter) {
  Lock a(0, 10, false), alone(0, 10, true), later(0, 10, false), elsewhere(20, 30, true);
  take(a);
  take(alone);
  take(later);
  take(elsewhere);
  EXPECT_FALSE(alone.held);
  EXPECT_FALSE(later.held);
  EXPECT_TRUE(elsewhere.held);
  locks.release(a);
  EXPECT_TRUE(alone.held);
  EXPECT_FALSE(later.held);
  locks.release(alone);
  EXPECT_TRUE(later.held);
}

TEST_F(RangeLocksTest, OneReleaseGrantsAllThatFitTogether) {
  Lock a(0, 30, true), b(0, 10, false), c(5, 15, false), d(12, 20, true), e(20, 30, true);
  for (Lock* lock : {&a, &b, &c, &d, &e}) take(*lock);
  locks.release(a);
  EXPECT_TRUE(b.held && c.held && e.held);
  EXPECT_FALSE(d.held);
  locks.release(c);
  EXPECT_TRUE(d.held);
}

// At no time two conflicting locks are held, nor one is left waiting without need.
TEST_F(RangeLocksTest, RandomOrder) {
  std::mt19937 random(3);
  std::deque<Lock> storage;
  std::vector<Lock*> active;
  auto overlap = [](const Lock& x, const Lock& y) {
    return x.begin < y.end && y.begin < x.end && (x.exclusive || y.exclusive);
  };
  for (int step = 0; step < 20'000; ++step) {
    if (active.size() < 24 && random() % 2 == 0) {
      std::uint64_t begin = random() % 40;
      Lock& lock = storage.emplace_back(begin, begin + 1 + random() % 10, random() % 2 == 0);
      take(lock);
      active.push_back(&lock);
    } else if (!active.empty()) {
      std::vector<std::size_t> held;
      for (std::size_t i = 0; i < active.size(); ++i)
        if (active[i]->held) held.push_back(i);
      ASSERT_FALSE(held.empty()) << "all wait for each other";
      std::size_t pick = held[random() % held.size()];
      locks.release(*active[pick]);
      active.erase(active.begin() + static_cast<std::ptrdiff_t>(pick));
    }
    for (std::size_t i = 0; i < active.size(); ++i) {
      bool blocked = false;  // by one before it; they are in order of arrival
      for (std::size_t j = 0; j < i; ++j) blocked |= overlap(*active[i], *active[j]);
      for (std::size_t j = i + 1; j < active.size(); ++j)
        ASSERT_FALSE(active[i]->held && active[j]->held && overlap(*active[i], *active[j]));
      ASSERT_EQ(active[i]->held, !blocked);
    }
  }
  while (!active.empty()) {
    locks.release(*active.front());
    active.erase(active.begin());
  }
  EXPECT_TRUE(locks.idle());
}

}  // namespace
}  // namespace tidepool::blockdev
