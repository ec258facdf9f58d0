#include "blockdev/journal_format.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace tidepool::blockdev {
namespace {

constexpr std::uint64_t salt = 0x1234'5678'9abc'def0;
using Bytes = std::vector<std::byte>;

Bytes some_records(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  Bytes records(size);
  for (auto& byte : records) byte = static_cast<std::byte>(random() | 1);
  return records;
}

Bytes batch_of(std::uint64_t number, const Bytes& records) {
  Bytes out(batch_bytes(records.size()));
  encode_batch(out, salt, number, records);
  return out;
}

Bytes operator+(Bytes left, const Bytes& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

std::span<std::byte> sector(Bytes& journal, std::size_t index) {
  return std::span(journal).subspan(index * journal_sector_bytes, journal_sector_bytes);
}

void swap_sectors(Bytes& journal, std::size_t a, std::size_t b) {
  std::swap_ranges(sector(journal, a).begin(), sector(journal, a).end(),
                   sector(journal, b).begin());
}

struct JournalFormat : testing::Test {
  Bytes records;
  Bytes blank = Bytes(64 * 1024);

  // The size of the batch, or 0 and the kind of error.
  std::pair<std::uint64_t, bool> decode(const Bytes& journal, std::uint64_t batch) {
    auto size = decode_batch(journal, salt, batch, records);
    if (!size) {
      EXPECT_EQ(size.error().kind, ErrorKind::corrupt);
      EXPECT_NE(size.error().message.find("journal batch"), std::string::npos);
      return {0, true};
    }
    return {*size, false};
  }
  static constexpr std::pair<std::uint64_t, bool> end{0, false}, corrupt{0, true};
};

TEST_F(JournalFormat, RoundTripsOfAllSizes) {
  for (std::size_t size : {1, 479, 480, 481, 3839, 3840, 3841, 50'000}) {
    Bytes in = some_records(size, static_cast<unsigned>(size));
    Bytes journal = batch_of(7, in) + blank;
    EXPECT_EQ(decode(journal, 7), std::pair(batch_bytes(size), false)) << size;
    EXPECT_EQ(records, in);
    EXPECT_EQ(batch_bytes(size) % journal_unit_bytes, 0U);
  }
}

TEST_F(JournalFormat, FollowingBatchesAreRead) {
  Bytes a = some_records(5000, 1), b = some_records(100, 2);
  Bytes journal = batch_of(7, a) + batch_of(8, b) + blank;
  auto [size, bad] = decode(journal, 7);
  ASSERT_FALSE(bad);
  Bytes rest(journal.begin() + static_cast<std::ptrdiff_t>(size), journal.end());
  EXPECT_EQ(decode(rest, 8).first, batch_bytes(b.size()));
  EXPECT_EQ(records, b);
}

TEST_F(JournalFormat, NothingWrittenIsTheEnd) {
  EXPECT_EQ(decode(blank, 7), end);
  EXPECT_EQ(decode({}, 7), end);
}

TEST_F(JournalFormat, AnOlderBatchIsTheEnd) {
  EXPECT_EQ(decode(batch_of(6, some_records(5000, 1)) + blank, 7), end);
}

TEST_F(JournalFormat, ATornBatchIsTheEnd) {
  Bytes in = some_records(5000, 1);
  std::size_t sectors = (in.size() + journal_payload_bytes - 1) / journal_payload_bytes;
  Bytes old = batch_of(3, some_records(9000, 2));
  std::mt19937 random(5);
  for (std::size_t missing = 0; missing < sectors; ++missing) {
    Bytes blank_there = batch_of(7, in) + blank, old_there = blank_there;
    std::ranges::fill(sector(blank_there, missing), std::byte{0});
    std::ranges::copy(sector(old, missing), sector(old_there, missing).begin());
    EXPECT_EQ(decode(blank_there, 7), end) << missing;
    EXPECT_EQ(decode(old_there, 7), end) << missing;
    EXPECT_TRUE(records.empty());
  }
}

TEST_F(JournalFormat, ALaterBatchTellsALostOneFromTheEnd) {
  Bytes a = batch_of(7, some_records(5000, 1)), b = batch_of(8, some_records(100, 2));
  EXPECT_TRUE(holds_later_batch(a + b + blank, salt, 7));
  EXPECT_FALSE(holds_later_batch(a + b + blank, salt, 8));
  EXPECT_FALSE(holds_later_batch(a + b + blank, salt + 1, 7));
  EXPECT_FALSE(holds_later_batch(blank, salt, 7));
  EXPECT_FALSE(holds_later_batch({}, salt, 7));
}

TEST_F(JournalFormat, EveryFlippedBitOfABatchIsDamage) {
  Bytes in = some_records(1500, 1), journal = batch_of(7, in) + blank;
  std::size_t sectors = (in.size() + journal_payload_bytes - 1) / journal_payload_bytes;
  for (std::size_t bit = 0; bit < sectors * journal_sector_bytes * 8; ++bit) {
    Bytes damaged = journal;
    damaged[bit / 8] ^= std::byte{1} << (bit % 8);
    ASSERT_EQ(decode(damaged, 7), corrupt) << "bit " << bit;
  }
}

TEST_F(JournalFormat, SectorsOutOfPlaceAreDamage) {
  Bytes in = some_records(5000, 1);
  Bytes journal = batch_of(7, in) + batch_of(8, in) + blank;
  swap_sectors(journal, 2, 3);  // within the batch
  EXPECT_EQ(decode(journal, 7), corrupt);
  swap_sectors(journal, 2, 3);
  swap_sectors(journal, 2, 2 + batch_bytes(in.size()) / journal_sector_bytes);
  EXPECT_EQ(decode(journal, 7), corrupt);  // of a later batch
}

TEST_F(JournalFormat, ABatchThatDoesNotFitIsDamage) {
  Bytes journal = batch_of(7, some_records(50'000, 1));
  journal.resize(journal_unit_bytes);
  EXPECT_EQ(decode(journal, 7), corrupt);
}

TEST_F(JournalFormat, AnotherPoolsBatchIsNotItsOwn) {
  Bytes journal = batch_of(7, some_records(100, 1));
  EXPECT_EQ(decode_batch(journal, salt + 1, 7, records).error().kind, ErrorKind::corrupt);
}

}  // namespace
}  // namespace tidepool::blockdev
