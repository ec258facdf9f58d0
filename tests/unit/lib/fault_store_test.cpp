#include "tests/lib/fault_store.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <thread>
#include <vector>

#include "blockdev/sync_channel.h"
#include "tests/lib/simulated_store.h"

namespace tidepool::test {
namespace {

using blockdev::IoOp;
using blockdev::IoRequest;
using blockdev::SyncChannel;

std::vector<std::byte> filled(std::size_t size, int value) {
  return std::vector<std::byte>(size, static_cast<std::byte>(value));
}

struct FaultStoreTest : testing::Test {
  std::shared_ptr<SimulatedStore> disk = SimulatedStore::open(1 << 20);
  std::shared_ptr<FaultStore> store = std::make_shared<FaultStore>(disk);
  std::unique_ptr<SyncChannel> channel = SyncChannel::open(*store).value();
  std::vector<std::byte> data = filled(4096, 7);
};

TEST_F(FaultStoreTest, PassesEverythingWithoutRules) {
  ASSERT_TRUE(channel->write(4096, data));
  ASSERT_TRUE(channel->flush());
  auto back = filled(4096, 0);
  ASSERT_TRUE(channel->read(4096, back));
  EXPECT_EQ(back, data);
  EXPECT_EQ(store->geometry().size, disk->geometry().size);
  EXPECT_EQ(channel->read(100, back).error().errno_value, EINVAL);
}

TEST_F(FaultStoreTest, FailsTheNthOfAKind) {
  store->fail({.op = IoOp::write}, ENOSPC, 2, 2);
  EXPECT_TRUE(channel->write(0, data));
  EXPECT_TRUE(channel->flush());
  EXPECT_EQ(channel->write(0, data).error().errno_value, ENOSPC);
  EXPECT_EQ(channel->write(0, data).error().errno_value, ENOSPC);
  EXPECT_TRUE(channel->write(0, data));
  EXPECT_EQ(disk->counters().writes, 2U);
}

TEST_F(FaultStoreTest, FailsWhatTouchesARange) {
  store->fail({.offset = 8192, .length = 4096}, EIO, 1, UINT64_MAX);
  EXPECT_TRUE(channel->write(4096, data));
  EXPECT_TRUE(channel->write(12288, data));
  EXPECT_FALSE(channel->write(8192, data));
  EXPECT_FALSE(channel->write(10240, data));
  EXPECT_FALSE(channel->read(6144, data));
  store->clear();
  EXPECT_TRUE(channel->write(8192, data));
}

TEST_F(FaultStoreTest, HoldsBeforeTheStoreSeesTheRequest) {
  store->hold({.op = IoOp::write}, FaultStore::HoldAt::submission);
  std::thread writer([&] { EXPECT_TRUE(channel->write(0, data)); });
  store->wait_for_held(1);
  EXPECT_EQ(disk->counters().writes, 0U);
  auto other = SyncChannel::open(*store).value();
  auto back = filled(4096, 1);
  ASSERT_TRUE(other->read(0, back));  // not held
  EXPECT_EQ(back, filled(4096, 0));
  store->release_one();
  writer.join();
  EXPECT_EQ(disk->counters().writes, 1U);
  EXPECT_EQ(store->held(), 0U);
}

TEST_F(FaultStoreTest, HoldsTheAnswerOfARequestThatWasDone) {
  store->hold({.op = IoOp::read}, FaultStore::HoldAt::completion);
  auto back = filled(4096, 1);
  std::thread reader([&] { EXPECT_TRUE(channel->read(0, back)); });
  store->wait_for_held(1);
  ASSERT_TRUE(SyncChannel::open(*store).value()->write(0, data));
  store->release_all();
  reader.join();
  EXPECT_EQ(back, filled(4096, 0));  // as it was before the write
  auto again = filled(4096, 1);
  EXPECT_TRUE(channel->read(0, again));  // no longer held
  EXPECT_EQ(again, data);
}

TEST_F(FaultStoreTest, HoldsNoMoreThanItWasTold) {
  store->hold({.op = IoOp::flush}, FaultStore::HoldAt::submission, 1);
  std::thread flusher([&] { EXPECT_TRUE(channel->flush()); });
  store->wait_for_held(1);
  EXPECT_TRUE(SyncChannel::open(*store).value()->flush());
  store->clear();
  flusher.join();
}

TEST_F(FaultStoreTest, FlipsABitForReadersOnly) {
  ASSERT_TRUE(channel->write(0, data));
  store->flip_bit(1000, 3);
  auto back = filled(4096, 0);
  ASSERT_TRUE(channel->read(512, std::span(back).first(1024)));
  EXPECT_EQ(std::to_integer<int>(back[1000 - 512]), 7 ^ 8);
  EXPECT_EQ(std::to_integer<int>(back[1001 - 512]), 7);
  store->clear();
  ASSERT_TRUE(channel->read(0, back));
  EXPECT_EQ(back, data);
}

}  // namespace
}  // namespace tidepool::test
