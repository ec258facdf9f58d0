// The notes of what is in flight, looked at after a crash between any two steps.
#include "virtio/inflight_notes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <random>

#include "base/byte_order.h"

namespace tidepool::virtio {
namespace {

constexpr std::uint16_t entries = 16;
constexpr std::size_t version_at = 8, entries_at = 10;

struct Memory {
  alignas(8) std::array<std::byte, InflightNotes::bytes_for(entries)> bytes{};
  void put(std::size_t at, std::uint16_t value) { store_le16(&bytes[at], value); }
  // What a process that comes after this one finds.
  std::vector<std::uint16_t> left(std::uint16_t used) const {
    Memory copy = *this;
    return InflightNotes(copy.bytes, entries).recover(used).value();
  }
};

TEST(InflightNotes, SayWhatWasLeftInItsOrder) {
  Memory memory;
  InflightNotes notes(memory.bytes, entries);
  EXPECT_TRUE(notes.recover(7)->empty());
  for (const std::uint16_t head : {5, 2, 9}) notes.took(head);
  EXPECT_EQ(memory.left(7), (std::vector<std::uint16_t>{5, 2, 9}));
  notes.put_back(9);
  EXPECT_EQ(memory.left(7), (std::vector<std::uint16_t>{5, 2}));
  const UsedChain used{2, 0};
  notes.giving({&used, 1});
  EXPECT_EQ(memory.left(7), (std::vector<std::uint16_t>{5, 2}));  // the answer is not out
  EXPECT_EQ(memory.left(8), (std::vector<std::uint16_t>{5}));     // it is
  notes.gave({&used, 1}, 8);
  EXPECT_EQ(memory.left(8), (std::vector<std::uint16_t>{5}));
  InflightNotes next(memory.bytes, entries);
  EXPECT_EQ(next.recover(8).value(), (std::vector<std::uint16_t>{5}));
  next.took(1);
  EXPECT_EQ(memory.left(8), (std::vector<std::uint16_t>{5, 1}));
}

TEST(InflightNotes, HoldAtEachStepOfManyRounds) {
  std::mt19937 random(1);
  Memory memory;
  InflightNotes notes(memory.bytes, entries);
  std::uint16_t used = 65'500;  // wraps
  ASSERT_TRUE(notes.recover(used));
  std::vector<std::uint16_t> free, taken;
  for (std::uint16_t i = 0; i < entries; ++i) free.push_back(i);
  const auto as_left = [&](std::uint16_t at) { return memory.left(at); };
  for (int round = 0; round < 5000; ++round) {
    if (!free.empty() && random() % 2 == 0) {
      const auto which = free.begin() + static_cast<std::ptrdiff_t>(random() % free.size());
      notes.took(*which);
      taken.push_back(*which);
      free.erase(which);
    } else if (!taken.empty()) {
      std::vector<UsedChain> batch;
      std::vector<std::uint16_t> rest = taken;
      for (auto count = 1 + random() % taken.size(); count > 0; --count) {
        const auto which = rest.begin() + static_cast<std::ptrdiff_t>(random() % rest.size());
        batch.push_back({*which, 0});
        rest.erase(which);
      }
      const auto after = static_cast<std::uint16_t>(used + batch.size());
      notes.giving(batch);
      ASSERT_EQ(as_left(used), taken);
      ASSERT_EQ(as_left(after), rest);
      notes.gave(batch, after);
      used = after;
      taken = rest;
      for (const UsedChain& chain : batch) free.push_back(chain.head);
    }
    ASSERT_EQ(as_left(used), taken);
  }
}

TEST(InflightNotes, AreNotBelievedBlindly) {
  std::mt19937 random(2);
  for (int round = 0; round < 2000; ++round) {
    Memory memory;
    for (std::byte& byte : memory.bytes) byte = static_cast<std::byte>(random());
    memory.put(version_at, 1);
    memory.put(entries_at, entries);
    const auto left = memory.left(static_cast<std::uint16_t>(random()));
    ASSERT_LE(left.size(), entries);
    for (const std::uint16_t head : left) ASSERT_LT(head, entries);
  }
}

TEST(InflightNotes, OfAnotherKindAreRefused) {
  const auto answer = [](std::uint16_t version, std::uint16_t count) {
    Memory memory;
    memory.put(version_at, version);
    memory.put(entries_at, count);
    return InflightNotes(memory.bytes, entries).recover(0);
  };
  EXPECT_TRUE(answer(0, 0));  // not used yet
  EXPECT_TRUE(answer(1, entries));
  for (const auto& refused : {answer(2, entries), answer(0xffff, entries), answer(1, 0),
                              answer(1, entries - 1), answer(1, entries + 1)}) {
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().kind, ErrorKind::unsupported);
  }
}

}  // namespace
}  // namespace tidepool::virtio
