// The queue against a driver written apart from it, and against drivers that lie.
#include "virtio/split_queue.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/lib/queue_driver.h"

namespace tidepool::virtio {
namespace {

using test::QueueDriver;
using test::TestMemory;

struct Fixture {
  TestMemory memory{1 << 20};
  MemoryWriter writer{"test"};
  Fixture() { writer.connect(memory.map()); }
  SplitQueue open(const QueueDriver& driver, bool event_index) {
    auto queue = SplitQueue::create(writer, driver.layout(), event_index, {});
    EXPECT_TRUE(queue) << queue.error().message;
    return std::move(*queue);
  }
};

// Descriptor flags of the standard.
constexpr std::uint16_t next = 1, write = 2, indirect = 4;

TEST(SplitQueue, GivesWhatTheDriverOffered) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (const bool event_index : {false, true}) {
    Fixture f;
    TestMemory& memory = f.memory;
    QueueDriver driver(memory, 16, event_index);
    SplitQueue queue = f.open(driver, event_index);
    const std::uint64_t data = memory.take(4096), tables = memory.take(0);
    std::deque<std::pair<std::uint16_t, std::vector<QueueDriver::Piece>>> offered;
    std::deque<Chain> held;
    std::map<std::uint16_t, std::uint32_t> pushed;
    for (int step = 0; step < 200'000; ++step) {
      const auto kind = random() % 3;
      if (kind == 0 && driver.room() >= 6) {
        std::vector<QueueDriver::Piece> pieces;
        const unsigned readable = random() % 4, writable = random() % 3;
        for (unsigned i = 0; i < readable + writable; ++i) {
          const auto length = static_cast<std::uint32_t>(1 + random() % 64);
          pieces.push_back({data + random() % (4096 - 64), length, i >= readable});
        }
        if (pieces.empty()) pieces.push_back({data, 1, true});
        if (held.empty() && offered.empty()) memory.take(0);
        const bool table = random() % 2 == 0 && memory.take(0) < tables + (1 << 19);
        offered.emplace_back(driver.add(pieces, table), pieces);
      } else if (kind == 1) {
        Chain chain;
        const PopResult result = queue.pop(chain);
        ASSERT_NE(result, PopResult::broken) << queue.fault();
        ASSERT_EQ(result == PopResult::empty, offered.empty());
        if (offered.empty()) continue;
        const auto [head, pieces] = offered.front();
        offered.pop_front();
        ASSERT_EQ(chain.head, head);
        ASSERT_EQ(chain.readable + chain.writable, pieces.size());
        for (std::size_t i = 0; i < pieces.size(); ++i) {
          ASSERT_EQ(chain.segments[i].iov_base, memory.at(pieces[i].address));
          ASSERT_EQ(chain.segments[i].iov_len, pieces[i].length);
          ASSERT_EQ(i >= chain.readable, pieces[i].writable);
        }
        held.push_back(chain);
      } else if (!held.empty()) {  // in any order
        const std::size_t which = random() % held.size();
        const auto length = static_cast<std::uint32_t>(random() % 100);
        pushed[held[which].head] = length;
        queue.push(held[which], length);
        held.erase(held.begin() + static_cast<std::ptrdiff_t>(which));
      }
      while (auto used = driver.poll()) {
        ASSERT_EQ(pushed.at(static_cast<std::uint16_t>(used->id)), used->length);
        pushed.erase(static_cast<std::uint16_t>(used->id));
      }
      ASSERT_TRUE(pushed.empty());
    }
  }
}

// Without the second look that enable_kicks() takes, a chain that comes between the
// last pop() and the wish for kicks would wait for ever.
TEST(SplitQueue, SeesWhatComesBeforeKicksAreWanted) {
  for (const bool event_index : {false, true}) {
    Fixture f;
    QueueDriver driver(f.memory, 8, event_index);
    SplitQueue queue = f.open(driver, event_index);
    const std::uint64_t data = f.memory.take(16);
    EXPECT_FALSE(queue.enable_kicks());
    EXPECT_FALSE(queue.enable_kicks());
    driver.add({{data, 16, false}}, false);
    EXPECT_TRUE(driver.must_kick());
    driver.kicked();
    EXPECT_TRUE(queue.enable_kicks());
    queue.disable_kicks();
    Chain chain;
    ASSERT_EQ(queue.pop(chain), PopResult::chain);
    driver.add({{data, 16, false}}, false);
    EXPECT_FALSE(driver.must_kick());
    EXPECT_TRUE(queue.enable_kicks());
  }
}

TEST(SplitQueue, InterruptsAsTheDriverAsks) {
  Fixture f;
  QueueDriver driver(f.memory, 8, true);
  SplitQueue queue = f.open(driver, true);
  const std::uint64_t data = f.memory.take(16);
  const std::uint64_t used_event = driver.available() + 4 + 2 * 8;
  const auto use_one = [&] {
    driver.add({{data, 16, true}}, false);
    Chain chain;
    ASSERT_EQ(queue.pop(chain), PopResult::chain);
    queue.push(chain, 0);
  };
  use_one();
  EXPECT_TRUE(queue.wants_interrupt());  // nothing is known of the driver yet
  f.memory.put<std::uint16_t>(used_event, 2);
  use_one();
  EXPECT_FALSE(queue.wants_interrupt());
  use_one();
  EXPECT_TRUE(queue.wants_interrupt());  // index 3: past 2
  use_one();
  EXPECT_FALSE(queue.wants_interrupt());

  QueueDriver plain(f.memory, 8, false);
  SplitQueue other = f.open(plain, false);
  EXPECT_TRUE(other.wants_interrupt());
  f.memory.put<std::uint16_t>(plain.available(), 1);
  EXPECT_FALSE(other.wants_interrupt());
}

TEST(SplitQueue, GoesOnFromAPosition) {
  Fixture f;
  QueueDriver driver(f.memory, 8, true);
  const std::uint64_t data = f.memory.take(16);
  QueuePosition position;
  for (unsigned round = 0; round < 70'000; ++round) {  // past the indexes' wrap
    SplitQueue queue = *SplitQueue::create(f.writer, driver.layout(), true, position);
    const std::uint16_t head = driver.add({{data, 4, true}}, false);
    Chain chain;
    ASSERT_EQ(queue.pop(chain), PopResult::chain);
    ASSERT_EQ(queue.pop(chain), PopResult::empty);
    queue.push(chain, round);
    const auto used = driver.poll();
    ASSERT_TRUE(used);
    ASSERT_EQ(used->id, head);
    ASSERT_EQ(used->length, round);
    position = queue.position();
  }
}

TEST(SplitQueue, MarksWhatItWrites) {
  Fixture f;
  QueueDriver driver(f.memory, 8, true);
  SplitQueue queue = f.open(driver, true);
  const std::uint64_t data = f.memory.take(3 * guest_page, guest_page);
  f.writer.start_tracking();
  driver.add({{data + 100, 2 * guest_page, true}}, false);
  Chain chain;
  ASSERT_EQ(queue.pop(chain), PopResult::chain);
  queue.push(chain, guest_page);  // bytes 100 .. 4196: two pages
  std::vector<std::uint64_t> words((f.memory.map()->end() / guest_page + 63) / 64);
  f.writer.take_marks(words);
  const auto marked = [&](std::uint64_t address) {
    const std::uint64_t page = address / guest_page;
    return (words[page / 64] >> (page % 64) & 1) != 0;
  };
  EXPECT_TRUE(marked(data));
  EXPECT_TRUE(marked(data + guest_page));
  EXPECT_FALSE(marked(data + 2 * guest_page));
  EXPECT_TRUE(marked(driver.used()));
}

struct Lie {
  const char* what;
  std::function<void(TestMemory&, QueueDriver&)> tell;
};

TEST(SplitQueue, BreaksOnEachLie) {
  const std::vector<Lie> lies{
      {"head outside the table", [](auto&, auto& d) { d.publish(8); }},
      {"index too far on",
       [](auto& m, auto& d) { m.template put<std::uint16_t>(d.available() + 2, 9); }},
      {"next outside the table",
       [](auto& m, auto& d) {
         d.write_descriptor(d.descriptor(0), m.base, 16, next, 8);
         d.publish(0);
       }},
      {"a loop",
       [](auto& m, auto& d) {
         d.write_descriptor(d.descriptor(0), m.base, 16, next, 1);
         d.write_descriptor(d.descriptor(1), m.base, 16, next, 0);
         d.publish(0);
       }},
      {"a loop of empty pieces",
       [](auto& m, auto& d) {
         d.write_descriptor(d.descriptor(0), m.base, 0, next, 0);
         d.publish(0);
       }},
      {"readable after writable",
       [](auto& m, auto& d) {
         d.write_descriptor(d.descriptor(0), m.base, 16, next | write, 1);
         d.write_descriptor(d.descriptor(1), m.base, 16, 0, 0);
         d.publish(0);
       }},
      {"below the memory",
       [](auto& m, auto& d) {
         d.write_descriptor(d.descriptor(0), m.base - 1, 16, 0, 0);
         d.publish(0);
       }},
      {"past the memory's end",
       [](auto& m, auto& d) {
         d.write_descriptor(d.descriptor(0), m.map()->end() - 8, 9, 0, 0);
         d.publish(0);
       }},
      {"a wrapping address",
       [](auto&, auto& d) {
         d.write_descriptor(d.descriptor(0), UINT64_MAX - 7, 16, 0, 0);
         d.publish(0);
       }},
      {"an indirect table of no whole entries",
       [](auto& m, auto& d) {
         d.write_descriptor(d.descriptor(0), m.base, 24, indirect, 0);
         d.publish(0);
       }},
      {"an empty indirect table",
       [](auto& m, auto& d) {
         d.write_descriptor(d.descriptor(0), m.base, 0, indirect, 0);
         d.publish(0);
       }},
      {"an indirect table outside the memory",
       [](auto&, auto& d) {
         d.write_descriptor(d.descriptor(0), 0, 16, indirect, 0);
         d.publish(0);
       }},
      {"an indirect table with a next",
       [](auto& m, auto& d) {
         d.write_descriptor(d.descriptor(0), m.base, 16, indirect | next, 1);
         d.publish(0);
       }},
      {"an indirect table in an indirect table",
       [](auto& m, auto& d) {
         const auto table = m.take(16);
         d.write_descriptor(table, table, 16, indirect, 0);
         d.write_descriptor(d.descriptor(0), table, 16, indirect, 0);
         d.publish(0);
       }},
      {"next outside an indirect table",
       [](auto& m, auto& d) {
         const auto table = m.take(16);
         d.write_descriptor(table, m.base, 16, next, 1);
         d.write_descriptor(d.descriptor(0), table, 16, indirect, 0);
         d.publish(0);
       }},
      {"too many pieces",
       [](auto& m, auto& d) {
         const std::uint32_t count = Chain::most_segments + 1;
         const auto table = m.take(16 * count);
         for (std::uint32_t i = 0; i < count; ++i) {
           d.write_descriptor(table + 16 * i, m.base, 1, i + 1 < count ? next : std::uint16_t{0},
                              static_cast<std::uint16_t>(i + 1));
         }
         d.write_descriptor(d.descriptor(0), table, 16 * count, indirect, 0);
         d.publish(0);
       }},
  };
  for (const Lie& lie : lies) {
    SCOPED_TRACE(lie.what);
    Fixture f;
    QueueDriver driver(f.memory, 8, false);
    SplitQueue queue = f.open(driver, false);
    lie.tell(f.memory, driver);
    Chain chain;
    EXPECT_EQ(queue.pop(chain), PopResult::broken);
    EXPECT_FALSE(queue.fault().empty());
    EXPECT_EQ(queue.pop(chain), PopResult::broken);
  }
}

TEST(SplitQueue, RefusesRingsThatDoNotFit) {
  Fixture f;
  QueueDriver driver(f.memory, 8, true);
  const QueueLayout good = driver.layout();
  const std::uint64_t end = f.memory.map()->end();
  std::vector<QueueLayout> bad(8, good);
  bad[0].size = 0;
  bad[1].size = 7;
  bad[2].size = 2048;
  bad[3].descriptors += 8;
  bad[4].available += 1;
  bad[5].used += 2;
  bad[6].descriptors = 0;
  bad[7].used = end - 4 - 8 * 8;  // no room for the event index
  for (const QueueLayout& layout : bad) {
    EXPECT_FALSE(SplitQueue::create(f.writer, layout, true, {}));
  }
  EXPECT_TRUE(SplitQueue::create(f.writer, bad[7], false, {}));
}

// A piece across the seam of two regions is two pieces; one that ends in a hole is none.
TEST(SplitQueue, CrossesTheSeamOfRegions) {
  std::vector<std::byte> low(0x20000), high(0x1000);
  MemoryWriter writer("seam");
  writer.connect(
      *GuestMemory::create({{0, low.size(), low.data()}, {low.size(), high.size(), high.data()}}));
  const QueueLayout layout{8, 0x1000, 0x2000, 0x3000};
  SplitQueue queue = *SplitQueue::create(writer, layout, false, {});
  const std::uint64_t at = low.size() - 16;
  const std::uint32_t length = 48;
  std::memcpy(low.data() + 0x1000, &at, 8);
  std::memcpy(low.data() + 0x1008, &length, 4);
  low[0x2002] = std::byte{1};
  Chain chain;
  ASSERT_EQ(queue.pop(chain), PopResult::chain) << queue.fault();
  ASSERT_EQ(chain.readable, 2U);
  EXPECT_EQ(chain.segments[0].iov_base, low.data() + at);
  EXPECT_EQ(chain.segments[0].iov_len, 16U);
  EXPECT_EQ(chain.segments[1].iov_base, high.data());
  EXPECT_EQ(chain.segments[1].iov_len, 32U);
  EXPECT_EQ(chain.readable_bytes, 48U);
}

}  // namespace
}  // namespace tidepool::virtio
