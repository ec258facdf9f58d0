// One queue on an event loop, driven round by round.
#include "virtio/queue_server.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include <chrono>
#include <random>
#include <thread>

#include "base/loop_thread.h"
#include "tests/lib/queue_driver.h"

namespace tidepool::virtio {
namespace {

using namespace std::chrono_literals;
using test::CountingInterrupt;
using test::QueueDriver;
using test::TestMemory;

// Its device takes all chains, and gives them back at once or when the test does.
class QueueServerTest : public testing::TestWithParam<bool> {
 protected:
  QueueServerTest() { writer_.connect(memory_.map()); }

  void serve_on(EventLoop& loop, bool at_once) {
    server_.emplace(
        loop, *SplitQueue::create(writer_, driver_.layout(), GetParam(), {}),
        QueueStart{.layout = driver_.layout(), .kick = kick_.get(), .interrupt = &interrupt_},
        [this, at_once] {
          Chain chain;
          while (server_->take(chain)) {
            taken_.push_back(chain);
            if (at_once) give_one();
          }
          return true;
        },
        [](const std::string& why) { ADD_FAILURE() << why; });
    server_->resume();
  }
  void give_one() {
    server_->give(taken_.back(), 0);
    server_->notify();
    taken_.pop_back();
  }
  void add() { driver_.add({{buffer_, 16, true}}, false); }
  void kick_if_asked() {
    if (driver_.must_kick()) test::kick(kick_);
    driver_.kicked();
  }

  bool hears_more_than(unsigned count) const {
    for (int i = 0; i < 200'000 && interrupt_.count <= count; ++i)
      std::this_thread::sleep_for(100us);
    return interrupt_.count > count;
  }

  TestMemory memory_{1 << 20};
  MemoryWriter writer_{"queue"};
  QueueDriver driver_{memory_, 16, GetParam()};
  const std::uint64_t buffer_ = memory_.take(16);
  UniqueFd kick_{::eventfd(0, EFD_CLOEXEC)};
  CountingInterrupt interrupt_;
  std::optional<QueueServer> server_;
  std::vector<Chain> taken_;
};

TEST_P(QueueServerTest, WhatEndsInOneRoundIsOneInterrupt) {
  auto loop = *EventLoop::create({});
  for (int i = 0; i < 6; ++i) add();
  serve_on(*loop, false);
  ASSERT_EQ(taken_.size(), 6U);
  loop->post([this] {
    for (int i = 0; i < 3; ++i) give_one();
  });
  ASSERT_TRUE(loop->poll(false));
  EXPECT_EQ(interrupt_.count, 1U);
  // The twin: in a round each, and seen by the driver each, they are one each.
  for (int i = 0; i < 3; ++i) {
    while (driver_.poll()) {
    }
    loop->post([this] { give_one(); });
    ASSERT_TRUE(loop->poll(false));
  }
  EXPECT_EQ(interrupt_.count, 4U);
  server_.reset();
}

TEST_P(QueueServerTest, AQuietQueueHasToldTheDriver) {
  auto loop = *EventLoop::create({});
  add();
  serve_on(*loop, false);
  std::optional<unsigned> told;
  loop->post([&] {
    give_one();
    server_->quiesce([&] { told = interrupt_.count; });
    EXPECT_FALSE(told) << "the driver has not heard of the last chain yet";
  });
  while (!told) ASSERT_TRUE(loop->poll(true));
  EXPECT_EQ(told, 1U);
  server_.reset();
}

TEST_P(QueueServerTest, WhileTheLoopIsAwakeNoKickIsNeeded) {
  auto loop = *EventLoop::create({});
  serve_on(*loop, false);
  for (unsigned i = 1; i <= 5; ++i) {
    add();
    EXPECT_FALSE(i > 1 && driver_.must_kick());
    driver_.kicked();
    ASSERT_TRUE(loop->poll(false));
    EXPECT_EQ(taken_.size(), i);
  }
  server_.reset();
}

// The next round may sleep.
TEST_P(QueueServerTest, WhatALookFoundAndEndedIsToldInTheSameRound) {
  auto loop = *EventLoop::create({});
  serve_on(*loop, true);
  for (unsigned i = 1; i <= 5; ++i) {
    add();
    ASSERT_TRUE(loop->poll(false));
    EXPECT_EQ(interrupt_.count, i);
    EXPECT_TRUE(driver_.poll());
  }
  server_.reset();
}

TEST_P(QueueServerTest, AQuietQueueIsNotLookedAt) {
  auto loop = *EventLoop::create({});
  serve_on(*loop, false);
  bool quiet = false;
  loop->post([&] { server_->quiesce([&] { quiet = true; }); });
  while (!quiet) ASSERT_TRUE(loop->poll(true));
  add();
  ASSERT_TRUE(loop->poll(false));
  EXPECT_TRUE(taken_.empty());
  loop->post([&] { server_->resume(); });
  ASSERT_TRUE(loop->poll(false));
  EXPECT_EQ(taken_.size(), 1U);
  server_.reset();
}

// A driver that kicks only when it is asked to, at any moment of a loop that works, spins,
// and sleeps, and hears of each chain that was used.
TEST_P(QueueServerTest, NoChainIsLostBetweenLookingAndSleeping) {
  auto thread = *LoopThread::start("queue", {.spin = 20us});
  thread->call([&] { serve_on(thread->loop(), true); });
  std::mt19937 chance(1);
  unsigned kicks = 0;
  for (int round = 0; round < 3'000; ++round) {
    const auto pause = chance() % 4;
    if (pause == 1) std::this_thread::yield();
    if (pause == 2) std::this_thread::sleep_for(10us);
    if (pause == 3) std::this_thread::sleep_for(100us);
    const unsigned heard = interrupt_.count;
    add();
    kicks += driver_.must_kick() ? 1 : 0;
    kick_if_asked();
    // It looks when it is told to, and not before.
    ASSERT_TRUE(hears_more_than(heard)) << "round " << round;
    ASSERT_TRUE(driver_.poll()) << "round " << round;
  }
  EXPECT_GT(kicks, 0U);
  // The twin: who does not kick a loop that sleeps waits for good.
  for (;;) {
    std::this_thread::sleep_for(5ms);
    add();
    if (driver_.must_kick()) break;
    driver_.kicked();
    ASSERT_TRUE(test::wait_used(driver_));
  }
  EXPECT_FALSE(test::wait_used(driver_, 100));
  kick_if_asked();
  EXPECT_TRUE(test::wait_used(driver_));
  thread->call([&] { server_.reset(); });
}

INSTANTIATE_TEST_SUITE_P(EventIndex, QueueServerTest, testing::Bool());

}  // namespace
}  // namespace tidepool::virtio
