// Entropy and console, driven through their queues.
#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include <mutex>
#include <set>

#include "tests/lib/queue_driver.h"
#include "virtio/console_device.h"
#include "virtio/entropy_device.h"

namespace tidepool::virtio {
namespace {

using test::CountingInterrupt;
using test::kick;
using test::QueueDriver;
using test::TestMemory;

// Its length; a test without an answer has failed.
std::uint32_t used_length(QueueDriver& driver) { return test::wait_used(driver).value().length; }

TEST(EntropyDevice, FillsWhatItIsGiven) {
  TestMemory memory(1 << 20);
  auto device = *EntropyDevice::create();
  device->connect(memory.map());
  QueueDriver driver(memory, 8, true);
  UniqueFd fd(::eventfd(0, EFD_CLOEXEC));
  CountingInterrupt interrupt;
  ASSERT_TRUE(device->start(
      {device->features(), {QueueStart{driver.layout(), {}, fd.get(), &interrupt}}, {}}));
  const std::uint64_t data = memory.take(256 * 1024);
  std::set<std::uint64_t> seen;
  for (int i = 0; i < 100; ++i) {
    driver.add({{data, 8, true}, {data + 64, 8, true}}, false);
    kick(fd);
    EXPECT_EQ(used_length(driver), 16U);
    seen.insert(memory.get<std::uint64_t>(data));
    seen.insert(memory.get<std::uint64_t>(data + 64));
  }
  EXPECT_EQ(seen.size(), 200U);
  EXPECT_GT(interrupt.count, 0U);
  driver.add({{data, 256 * 1024, true}}, false);
  kick(fd);
  EXPECT_EQ(used_length(driver), most_entropy);
  device->reset();
}

TEST(ConsoleDevice, CarriesBothWays) {
  TestMemory memory(1 << 20);
  std::mutex mutex;
  std::string shown;
  auto device = *ConsoleDevice::create([&](std::span<const iovec> pieces) {
    const std::lock_guard lock(mutex);
    for (const iovec& piece : pieces)
      shown.append(static_cast<const char*>(piece.iov_base), piece.iov_len);
  });
  device->connect(memory.map());
  QueueDriver receive(memory, 8, false), transmit(memory, 8, false);
  UniqueFd receive_fd(::eventfd(0, EFD_CLOEXEC)), transmit_fd(::eventfd(0, EFD_CLOEXEC));
  CountingInterrupt interrupt;
  ASSERT_TRUE(device->start({device->features() & ~feature_event_index,
                             {QueueStart{receive.layout(), {}, receive_fd.get(), &interrupt},
                              QueueStart{transmit.layout(), {}, transmit_fd.get(), &interrupt}},
                             {}}));
  const std::uint64_t data = memory.take(4096);
  std::memcpy(memory.at(data), "hello", 5);
  transmit.add({{data, 2, false}, {data + 2, 3, false}}, false);
  kick(transmit_fd);
  EXPECT_EQ(used_length(transmit), 0U);
  {
    const std::lock_guard lock(mutex);
    EXPECT_EQ(shown, "hello");
  }
  device->type("typed before there is room");
  const std::uint64_t room = memory.take(64);
  receive.add({{room, 10, true}}, false);
  kick(receive_fd);
  EXPECT_EQ(used_length(receive), 10U);
  receive.add({{room + 10, 54, true}}, false);
  kick(receive_fd);
  EXPECT_EQ(used_length(receive), 16U);
  EXPECT_EQ(std::memcmp(memory.at(room), "typed before there is room", 26), 0);
  receive.add({{room, 64, true}}, false);
  kick(receive_fd);
  device->type("later");
  EXPECT_EQ(used_length(receive), 5U);
  device->reset();
}

}  // namespace
}  // namespace tidepool::virtio
