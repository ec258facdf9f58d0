#include "base/event_loop.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <thread>
#include <vector>

namespace tidepool {
namespace {

using namespace std::chrono_literals;

std::unique_ptr<EventLoop> make_loop(const EventLoop::Options& options = {}) {
  auto loop = EventLoop::create(options);
  EXPECT_TRUE(loop) << loop.error().message;
  return std::move(*loop);
}

struct Counter : Operation {
  Counter() {
    on_complete = [](Operation& self, int result, unsigned) {
      auto& counter = static_cast<Counter&>(self);
      ++counter.calls;
      counter.last = result;
    };
  }
  int calls = 0;
  int last = 1;
};

TEST(EventLoop, CompletesWhatWasPreparedBeforeTheFirstPoll) {
  auto loop = make_loop();
  Counter counter;
  io_uring_prep_nop(loop->prepare(counter));
  ASSERT_EQ(counter.calls, 0);
  EXPECT_EQ(loop->poll(true).value(), 1U);
  EXPECT_EQ(counter.calls, 1);
  EXPECT_EQ(counter.last, 0);
}

TEST(EventLoop, MayBeCreatedAndFirstUsedOnAnotherThreadThanItsOwner) {
  auto loop = make_loop();
  Counter counter;
  io_uring_prep_nop(loop->prepare(counter));
  std::thread owner([&] { EXPECT_EQ(loop->poll(true).value(), 1U); });
  owner.join();
  EXPECT_EQ(counter.calls, 1);
}

struct Orphan : AdoptableOperation {
  explicit Orphan(int& ended) : ended_(ended) {
    on_complete = [](Operation&, int, unsigned) { FAIL() << "its owner is gone"; };
  }
  ~Orphan() override { ++ended_; }
  int& ended_;
};

TEST(EventLoop, FreesAnAdoptedOperationWithItsCompletion) {
  auto loop = make_loop();
  int ended = 0;
  auto orphan = std::make_unique<Orphan>(ended);
  io_uring_prep_nop(loop->prepare(*orphan));
  loop->adopt(std::move(orphan));
  EXPECT_EQ(loop->poll(true).value(), 1U);
  EXPECT_EQ(ended, 1);
}

TEST(EventLoop, FreesAnAdoptedOperationAtItsEnd) {
  auto loop = make_loop();
  int ended = 0;
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe(pipe.data()), 0);
  auto orphan = std::make_unique<Orphan>(ended);
  io_uring_prep_poll_add(loop->prepare(*orphan), pipe[0], POLLIN);
  loop->adopt(std::move(orphan));
  EXPECT_EQ(loop->poll(false).value(), 0U);
  EXPECT_EQ(ended, 0);
  loop.reset();
  EXPECT_EQ(ended, 1);
  ::close(pipe[0]);
  ::close(pipe[1]);
}

TEST(EventLoop, SubmitsAFullRingByItself) {
  auto loop = make_loop({.entries = 4});
  std::vector<Counter> counters(1000);
  for (auto& counter : counters) io_uring_prep_nop(loop->prepare(counter));
  unsigned handled = 0;
  while (handled < counters.size()) handled += loop->poll(true).value();
  for (const auto& counter : counters) EXPECT_EQ(counter.calls, 1);
}

TEST(EventLoop, GivesTheErrorOfAFailedOperation) {
  auto loop = make_loop();
  Counter counter;
  char byte = 0;
  io_uring_prep_read(loop->prepare(counter), -1, &byte, 1, 0);
  loop->poll(true).value();
  EXPECT_EQ(counter.last, -EBADF);
}

TEST(EventLoop, PollWithoutWaitReturnsAtOnce) {
  auto loop = make_loop();
  EXPECT_EQ(loop->poll(false).value(), 0U);
}

TEST(EventLoop, RunsPostedTasksOnItsThreadInOrder) {
  auto loop = make_loop();
  std::thread::id loop_thread;
  std::vector<int> order;
  std::thread owner([&] {
    loop_thread = std::this_thread::get_id();
    EXPECT_TRUE(loop->run());
  });
  bool same_thread = true;
  for (int i = 0; i < 10000; ++i) {
    loop->post([&, i] {
      same_thread = same_thread && std::this_thread::get_id() == loop_thread;
      order.push_back(i);
    });
  }
  loop->post([&] { loop->stop(); });
  owner.join();
  ASSERT_EQ(order.size(), 10000U);
  for (int i = 0; i < 10000; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
  EXPECT_TRUE(same_thread);
}

// A lost wake-up hangs here: each message is sent only when the one before was
// answered, so the loop is asleep or about to sleep every time.
void ping_pong(const EventLoop::Options& options) {
  auto left = make_loop(options);
  auto right = make_loop(options);
  constexpr int rounds = 5000;
  int bounces = 0;
  std::function<void()> at_right;
  const std::function<void()> at_left = [&] {
    if (++bounces == rounds) {
      right->stop();
      left->stop();
    } else {
      right->post(at_right);
    }
  };
  at_right = [&] { left->post(at_left); };
  std::thread other([&] { EXPECT_TRUE(right->run()); });
  right->post(at_right);
  EXPECT_TRUE(left->run());
  other.join();
  EXPECT_EQ(bounces, rounds);
}

TEST(EventLoop, LosesNoWakeUp) { ping_pong({}); }
TEST(EventLoop, LosesNoWakeUpWhileSpinning) { ping_pong({.spin = 20us}); }
TEST(EventLoop, LosesNoWakeUpWhenNotBoundToAThread) { ping_pong({.any_thread = true}); }

TEST(EventLoop, PostedTaskMayPostAndPrepare) {
  auto loop = make_loop();
  Counter counter;
  loop->post([&] { loop->post([&] { io_uring_prep_nop(loop->prepare(counter)); }); });
  while (counter.calls == 0) loop->poll(true).value();
  EXPECT_EQ(counter.last, 0);
}

TEST(EventLoop, StopBeforeRunEndsItAndItCanRunAgain) {
  auto loop = make_loop();
  loop->stop();
  EXPECT_TRUE(loop->run());
  bool ran = false;
  loop->post([&] {
    ran = true;
    loop->stop();
  });
  EXPECT_TRUE(loop->run());
  EXPECT_TRUE(ran);
}

TEST(EventLoop, StopFromAnotherThreadEndsASleepingRun) {
  auto loop = make_loop();
  std::thread stopper([&] {
    std::this_thread::sleep_for(20ms);  // most likely asleep by now; correct either way
    loop->stop();
  });
  EXPECT_TRUE(loop->run());
  stopper.join();
}

TEST(EventLoop, ServesOneThreadAfterAnotherWhenNotBoundToOne) {
  auto loop = make_loop({.any_thread = true});
  for (int round = 0; round < 5; ++round) {
    std::thread user([&] {
      Counter counter;
      io_uring_prep_nop(loop->prepare(counter));
      while (counter.calls == 0) ASSERT_TRUE(loop->poll(true));
      EXPECT_EQ(counter.last, 0);
    });
    user.join();
  }
  // The wake-up was armed by threads that are gone: it must work nevertheless.
  bool ran = false;
  std::thread poster([&] {
    std::this_thread::sleep_for(20ms);
    loop->post([&] { ran = true; });
  });
  while (!ran) ASSERT_TRUE(loop->poll(true));
  poster.join();
}

TEST(EventLoop, SpinningLoopCompletesDataThatComesLater) {
  auto loop = make_loop({.spin = 100us});
  std::array<int, 2> pipe_ends{};
  ASSERT_EQ(::pipe(pipe_ends.data()), 0);
  for (int round = 0; round < 200; ++round) {
    Counter counter;
    char byte = 0;
    io_uring_prep_read(loop->prepare(counter), pipe_ends[0], &byte, 1, 0);
    std::thread writer([&] {
      if (round % 10 == 0) std::this_thread::sleep_for(1ms);  // longer than the spin
      EXPECT_EQ(::write(pipe_ends[1], "x", 1), 1);
    });
    while (counter.calls == 0) ASSERT_TRUE(loop->poll(true));
    EXPECT_EQ(byte, 'x');
    writer.join();
  }
  ::close(pipe_ends[0]);
  ::close(pipe_ends[1]);
}

struct Pile : LoopWatch {
  bool look() override {
    if (waiting == 0) return false;
    --waiting;
    return true;
  }
  bool may_sleep() override {
    ++asked;
    return waiting == 0;
  }
  int waiting = 0, asked = 0;
};

TEST(EventLoop, LooksUntilNothingIsLeftAndAsksBeforeItSleeps) {
  auto loop = make_loop();
  Pile pile;
  loop->watch(pile);
  pile.waiting = 3;
  for (int i = 0; i < 3; ++i) EXPECT_EQ(loop->poll(true).value(), 1U);  // does not sleep
  EXPECT_EQ(pile.waiting, 0);
  const int before = pile.asked;
  std::thread other([&] {
    std::this_thread::sleep_for(20ms);
    loop->post([] {});
  });
  EXPECT_EQ(loop->poll(true).value(), 1U);
  other.join();
  EXPECT_GT(pile.asked, before);
  loop->unwatch(pile);
  pile.waiting = 1;
  EXPECT_EQ(loop->poll(false).value(), 0U);
}

TEST(EventLoop, WideEntriesWork) {
  auto loop = make_loop({.entries = 8, .wide_entries = true});
  std::vector<Counter> counters(100);
  for (auto& counter : counters) io_uring_prep_nop(loop->prepare(counter));
  unsigned handled = 0;
  while (handled < counters.size()) handled += loop->poll(true).value();
  for (const auto& counter : counters) EXPECT_EQ(counter.calls, 1);
}

}  // namespace
}  // namespace tidepool
