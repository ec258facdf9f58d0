// Requests that overlap in time: what they may see of each other, and what never.
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>

#include "tests/unit/pool/pool_fixture.h"

namespace tidepool::pool {
namespace {

using HoldAt = FaultStore::HoldAt;

struct PoolConcurrency : PoolTest {
  // Lets the commit thread and this one do what they may do.
  void let_things_happen() {
    for (int i = 0; i < 20; ++i) {
      ASSERT_TRUE(pool->commit());
      queue->poll();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  // 16 writers of one block, each a part of it, all submitted before one is done.
  void write_one_block_in_parts(Disk& disk, std::uint64_t block) {
    store->hold({.op = IoOp::read}, HoldAt::completion);
    store->hold({.op = IoOp::write}, HoldAt::submission);
    std::vector<std::unique_ptr<Request>> writes;
    Bytes expected;
    for (int i = 0; i < 16; ++i) {
      Bytes part = filled(256, 16 + i);
      expected.insert(expected.end(), part.begin(), part.end());
      writes.push_back(
          queue->write(disk, block * 4096 + static_cast<std::uint64_t>(i) * 256, std::move(part)));
    }
    EXPECT_GE(store->held(), 1U);
    store->release_all();
    for (auto& request : writes) EXPECT_EQ(queue->wait(*request), 0);
    EXPECT_EQ(read(disk, block * 4096, 4096), expected);
  }
};

TEST_F(PoolConcurrency, PartsOfANewBlockDoNotLoseEachOther) {
  write_one_block_in_parts(make(a, "d"), 3);
}

TEST_F(PoolConcurrency, PartsOfAMappedBlockDoNotLoseEachOther) {
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 0, 4 * 4096, 1), 0);
  write_one_block_in_parts(disk, 2);
  EXPECT_EQ(read(disk, 3 * 4096, 4096), filled(4096, 1));
}

TEST_F(PoolConcurrency, PartsOfAProvisionedBlockDoNotLoseEachOther) {
  Disk& disk = make(a, "d");
  ASSERT_EQ(driver->change(disk, IoOp::allocate, 0, 4 * 4096), 0);
  write_one_block_in_parts(disk, 2);
}

// Sectors in place share their block: they need not wait, and must not mix.
TEST_F(PoolConcurrency, SectorsOfABlockAndAnUnalignedWrite) {
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 0, 4096, 1), 0);
  store->hold({.op = IoOp::write}, HoldAt::submission);
  auto sector = queue->write(disk, 512, filled(512, 2));
  auto unaligned = queue->write(disk, 1000, filled(100, 3));
  auto other = queue->write(disk, 2048, filled(512, 4));
  store->release_all();
  for (auto* request : {&sector, &unaligned, &other}) EXPECT_EQ(queue->wait(**request), 0);
  Bytes expected = filled(4096, 1);
  std::fill_n(expected.begin() + 512, 512, std::byte{2});
  std::fill_n(expected.begin() + 1000, 100, std::byte{3});
  std::fill_n(expected.begin() + 2048, 512, std::byte{4});
  EXPECT_EQ(read(disk, 0, 4096), expected);
}

TEST_F(PoolConcurrency, AWriteIsVisibleOnlyWhenItIsOnTheStore) {
  Disk& disk = make(a, "d");
  store->hold({.op = IoOp::write}, HoldAt::submission);
  auto write = queue->write(disk, 0, filled(8192, 7));
  EXPECT_EQ(read(disk, 0, 8192), filled(8192, 0));
  EXPECT_EQ(pool->figures().used_bytes, 8192U);  // taken already
  store->release_all();
  EXPECT_EQ(queue->wait(*write), 0);
  EXPECT_EQ(read(disk, 0, 8192), filled(8192, 7));
}

TEST_F(PoolConcurrency, ADiscardWaitsForAWriteInFlight) {
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 0, 4 * 4096, 1), 0);
  store->hold({.op = IoOp::write}, HoldAt::submission);
  auto in_flight = queue->write(disk, 4096, filled(4096, 2));
  auto discard = queue->submit(disk, IoOp::discard, 0, 4 * 4096);
  auto later = queue->write(disk, 2 * 4096, filled(4096, 3));
  queue->poll();
  EXPECT_FALSE(in_flight->done());
  EXPECT_FALSE(discard->done());
  EXPECT_FALSE(later->done());
  store->release_all();
  for (auto* request : {&in_flight, &discard, &later}) EXPECT_EQ(queue->wait(**request), 0);
  Bytes expected = filled(4 * 4096, 0);
  std::fill_n(expected.begin() + 2 * 4096, 4096, std::byte{3});
  EXPECT_EQ(read(disk, 0, 4 * 4096), expected);
  EXPECT_EQ(pool->attributes(disk.id)->allocated_bytes, 4096U);
}

// A block that a read is under way to must not be punched or given to another
// disk, even when it was freed, and that committed, long ago.
TEST_F(PoolConcurrency, AReadNeverSeesWhatAnotherDiskWroteIntoItsBlocks) {
  reopen_with_thread();
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 0, mib, 0x11), 0);
  Disk& filler = make(b, "filler");
  fill_pool(filler);
  Disk& other = make(b, "other");
  store->hold({.op = IoOp::read}, HoldAt::submission, 1);
  auto reading = queue->read(disk, 0, mib);
  ASSERT_EQ(store->held(), 1U);
  ASSERT_EQ(driver->change(disk, IoOp::discard, 0, mib), 0);
  auto writing = queue->write(other, 0, filled(mib, 0x22));
  let_things_happen();
  EXPECT_FALSE(writing->done());
  store->release_all();
  EXPECT_EQ(queue->wait(*reading), 0);
  EXPECT_EQ(reading->data, filled(mib, 0x11));
  EXPECT_EQ(queue->wait(*writing), 0);
  EXPECT_EQ(read(other, 0, mib), filled(mib, 0x22));
}

// The same when the disk itself is gone: its hold is what the read has.
TEST_F(PoolConcurrency, AReadOfADeletedDiskEndsInPeace) {
  reopen_with_thread();
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 0, mib, 0x11), 0);
  Disk& filler = make(b, "filler");
  fill_pool(filler);
  Disk& other = make(b, "other");
  store->hold({.op = IoOp::read}, HoldAt::submission, 1);
  auto reading = queue->read(disk, 0, mib);
  ASSERT_TRUE(pool->remove_disk(a, "d"));
  EXPECT_EQ(write(other, 0, mib, 0x22), ENOSPC);  // its space is not free before it is let go
  let_things_happen();
  store->release_all();
  EXPECT_EQ(queue->wait(*reading), 0);
  EXPECT_EQ(reading->data, filled(mib, 0x11));
  let_go(disk);
  EXPECT_EQ(write(other, 0, mib, 0x22), 0);
}

// Reads begun after a free do not hold it up.
TEST_F(PoolConcurrency, LaterReadsDoNotKeepFreedBlocks) {
  reopen_with_thread();
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 0, 2 * mib, 0x11), 0);
  Disk& filler = make(b, "filler");
  fill_pool(filler);
  Disk& other = make(b, "other");
  ASSERT_EQ(driver->change(disk, IoOp::discard, 0, mib), 0);
  ASSERT_TRUE(pool->release_freed());
  store->hold({.op = IoOp::read}, HoldAt::submission, 1);
  auto reading = queue->read(disk, mib, mib);
  EXPECT_EQ(write(other, 0, mib, 0x22), 0);
  store->release_all();
  EXPECT_EQ(queue->wait(*reading), 0);
  EXPECT_EQ(reading->data, filled(mib, 0x11));
}

TEST_F(PoolConcurrency, AFailedWriteGivesItsBlocksBack) {
  Disk& disk = make(a, "d");
  std::uint64_t free = free_bytes();
  store->fail({.op = IoOp::write}, EIO);
  EXPECT_EQ(write(disk, 0, mib, 1), EIO);
  EXPECT_EQ(free_bytes(), free);
  EXPECT_EQ(read(disk, 0, 4096), filled(4096, 0));
  EXPECT_EQ(pool->attributes(disk.id)->size, 0U);
  fill_pool(disk);
  store->fail({.op = IoOp::read}, EIO);
  EXPECT_EQ(write(disk, 100, 100, 1), EIO);  // the rest of its block cannot be read
  EXPECT_EQ(write(disk, 100, 100, 1), 0);
}

// --- threads ---

struct Tag {
  std::uint64_t disk = 0, block = 0;
};

// Writes, discards and reads blocks that say whose they are, until told to stop.
void work(Pool& pool, NodeId vm, std::uint64_t seed, const std::atomic<bool>& stop,
          std::atomic<std::uint64_t>& bad) {
  constexpr std::uint64_t blocks = 600;
  std::mt19937_64 random(seed);
  PoolDriver driver(pool);
  std::string name = "d" + std::to_string(seed);
  for (int round = 0; !stop; ++round) {
    auto made = pool.make_disk(vm, name, 0600, 0, 0);
    if (!made) {
      ++bad;
      return;
    }
    Disk* disk = pool.hold(made->id).value();
    for (int step = 0; step < 60 && !stop; ++step) {
      std::uint64_t block = random() % blocks, count = 1 + random() % 24;
      Bytes data(count * block_size);
      int error = 0;
      switch (random() % 4) {
        case 0:
          error = driver.change(*disk, IoOp::discard, block * block_size, data.size());
          break;
        case 1: {
          error = driver.read(*disk, block * block_size, data);
          for (std::uint64_t i = 0; i < count; ++i) {
            Tag tag;
            std::memcpy(&tag, &data[i * block_size], sizeof tag);
            bool zeros = tag.disk == 0 && tag.block == 0;
            if (!zeros && (tag.disk != made->id || tag.block != block + i)) ++bad;
          }
          break;
        }
        default:
          for (std::uint64_t i = 0; i < count; ++i)
            for (std::uint64_t at = 0; at < block_size; at += sizeof(Tag)) {
              Tag tag{made->id, block + i};
              std::memcpy(&data[i * block_size + at], &tag, sizeof tag);
            }
          error = driver.write(*disk, block * block_size, data);
          if (error == ENOSPC) error = 0;
      }
      if (error == 0 && random() % 16 == 0) error = driver.flush(*disk);
      if (error != 0) ++bad;
    }
    pool.remove_disk(vm, name);
    pool.release(disk);
  }
}

// Four threads in a pool that is too small for them, while it is asked for its
// figures, releases, and grows.
TEST_F(PoolConcurrency, ManyThreads) {
  options.commit_interval = std::chrono::milliseconds(2);
  reopen_with_thread();
  Disk& filler = make(a, "filler");
  ASSERT_EQ(write(filler, 0, free_bytes() - 6 * mib, 1), 0);
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> bad{0};
  std::vector<std::thread> threads;
  for (std::uint64_t seed = 1; seed <= 4; ++seed)
    threads.emplace_back([&, seed] { work(*pool, seed % 2 ? a : b, seed, stop, bad); });
  for (int i = 1; i <= 12; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    PoolFigures f = pool->figures();
    EXPECT_LE(f.used_bytes + f.releasing_bytes, f.data_bytes);
    EXPECT_TRUE(pool->release_freed());
    if (i % 4 == 0) {
      below->set_size(below->geometry().size + 4 * mib);
      auto grown = pool->grow(below->geometry().size);
      EXPECT_TRUE(grown) << grown.error().message;
    }
  }
  stop = true;
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(bad, 0U);
  ASSERT_TRUE(pool->release_freed());
  EXPECT_EQ(pool->figures().used_bytes, pool->attributes(filler.id)->allocated_bytes);
  fill_pool(make(b, "rest"));  // every block can be had
  close();
  expect_sound();
}

}  // namespace
}  // namespace tidepool::pool
