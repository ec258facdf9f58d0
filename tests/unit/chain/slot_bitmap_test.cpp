// SlotBitmap against a set of slots.
#include "blockdev/chain/slot_bitmap.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace tidepool::blockdev::chain {
namespace {

constexpr std::uint64_t slots = 20'000;

TEST(SlotBitmap, AnswersAsASetOfSlots) {
  std::mt19937_64 random(7);
  SlotBitmap bitmap;
  std::set<std::uint64_t> oracle;
  const auto below = [&](std::uint64_t limit) { return random() % limit; };
  for (int step = 0; step < 200'000; ++step) {
    // Filling and emptying in turn, down to nothing and up to all.
    const bool adding = below(100) < (step / 20'000 % 2 == 0 ? 60U : 30U);
    const std::uint64_t slot = below(slots);
    const std::uint64_t most = std::min(slots - slot, 1 + (below(8) == 0 ? below(300) : below(3)));
    std::uint64_t count = 0;
    while (count < most && oracle.contains(slot + count) != adding) ++count;
    if (count > 0) {
      if (adding) {
        bitmap.add({slot, count});
        for (std::uint64_t i = 0; i < count; ++i) oracle.insert(slot + i);
      } else {
        bitmap.remove({slot, count});
        for (std::uint64_t i = 0; i < count; ++i) oracle.erase(slot + i);
      }
    }
    ASSERT_EQ(bitmap.size(), oracle.size());
    const std::uint64_t from = below(slots + 200), limit = 1 + below(200);
    const SlotRun found = bitmap.find(from, limit);
    const auto expected = oracle.lower_bound(from);
    if (expected == oracle.end()) {
      ASSERT_EQ(found.count, 0U) << "from " << from << ", step " << step;
      continue;
    }
    std::uint64_t length = 0;
    while (length < limit && oracle.contains(*expected + length)) ++length;
    ASSERT_EQ(found.slot, *expected) << "from " << from << ", step " << step;
    ASSERT_EQ(found.count, length) << "from " << from << ", step " << step;
  }
}

TEST(SlotBitmap, FindsWhatIsFarAway) {
  SlotBitmap bitmap;
  EXPECT_EQ(bitmap.find(0, 1).count, 0U);
  bitmap.add({10'000'000, 200});
  EXPECT_EQ(bitmap.find(0, 1'000).slot, 10'000'000U);
  EXPECT_EQ(bitmap.find(0, 1'000).count, 200U);
  EXPECT_EQ(bitmap.find(10'000'150, 1'000).count, 50U);
  EXPECT_EQ(bitmap.find(10'000'200, 1'000).count, 0U);
  EXPECT_LT(bitmap.memory_bytes(), 10'000'300U / 8 * 2);
}

}  // namespace
}  // namespace tidepool::blockdev::chain
