// Who may have how much of the pool, and what becomes of space that is given back.
#include "tests/unit/pool/pool_fixture.h"

namespace tidepool::pool {
namespace {

struct PoolSpace : PoolTest {
  std::uint64_t available(NodeId vm) { return pool->space(vm)->available; }
};

TEST_F(PoolSpace, AFullPoolRefusesNewBlocksAndRewritesOldOnes) {
  Disk& full = make(a, "full");
  fill_pool(full);
  std::uint64_t size = pool->attributes(full.id)->size;
  EXPECT_EQ(write(full, size, 1, 1), ENOSPC);
  Disk& other = make(b, "other");
  EXPECT_EQ(write(other, 0, 512, 1), ENOSPC);
  EXPECT_EQ(driver->change(other, IoOp::allocate, 0, 1), ENOSPC);
  EXPECT_EQ(driver->change(other, IoOp::zero, 0, 4096), ENOSPC);
  EXPECT_EQ(pool->attributes(other.id)->allocated_bytes, 0U);
  EXPECT_EQ(pool->attributes(other.id)->size, 0U);
  EXPECT_EQ(write(full, 0, mib, 2), 0);
  EXPECT_EQ(write(full, 777, 999, 3), 0);
  EXPECT_EQ(read(full, 777, 999), filled(999, 3));
  EXPECT_EQ(driver->flush(full), 0);
  EXPECT_EQ(available(b), 0U);
}

TEST_F(PoolSpace, AWriteTakesAllItNeedsOrNothing) {
  Disk& disk = make(a, "d");
  std::uint64_t bytes = free_bytes();
  ASSERT_EQ(write(disk, 0, bytes - 4096, 1), 0);
  EXPECT_EQ(write(disk, 20 * mib, 2 * 4096, 1), ENOSPC);
  EXPECT_EQ(pool->attributes(disk.id)->allocated_bytes, bytes - 4096);
  EXPECT_EQ(write(disk, 20 * mib, 4096, 1), 0);
}

TEST_F(PoolSpace, AQuotaHolds) {
  ASSERT_TRUE(pool->set_vm_settings(a, {.quota = 10 * 4096 + 100}));
  Disk& one = make(a, "one");
  Disk& two = make(a, "two");
  EXPECT_EQ(pool->space(a)->total, 10 * 4096U);
  ASSERT_EQ(write(one, 0, 6 * 4096, 1), 0);
  EXPECT_EQ(available(a), 4 * 4096U);
  EXPECT_EQ(write(two, 0, 5 * 4096, 1), ENOSPC);
  EXPECT_EQ(write(two, 0, 4 * 4096, 1), 0);
  EXPECT_EQ(write(one, 6 * 4096, 1, 1), ENOSPC);
  EXPECT_EQ(write(one, 0, 6 * 4096, 2), 0);
  ASSERT_EQ(driver->change(two, IoOp::discard, 0, 4096), 0);
  EXPECT_EQ(write(one, 6 * 4096, 1, 1), 0);
  Disk& other = make(b, "other");
  EXPECT_EQ(write(other, 0, mib, 1), 0);
  // Lowered below what is held: nothing more, until there is room again.
  ASSERT_TRUE(pool->set_vm_settings(a, {.quota = 5 * 4096}));
  EXPECT_EQ(available(a), 0U);
  EXPECT_EQ(write(one, 100 * 4096, 1, 1), ENOSPC);
}

TEST_F(PoolSpace, AReserveIsKeptFree) {
  std::uint64_t all = free_bytes();
  ASSERT_TRUE(pool->set_vm_settings(a, {.reserve = mib}));
  EXPECT_EQ(pool->figures().reserved_bytes, mib);
  EXPECT_EQ(available(b), all - mib);
  EXPECT_EQ(available(a), all);
  Disk& greedy = make(b, "greedy");
  ASSERT_EQ(write(greedy, 0, all - mib, 1), 0);
  EXPECT_EQ(write(greedy, all, 1, 1), ENOSPC);
  Disk& disk = make(a, "d");
  EXPECT_EQ(write(disk, 0, mib, 1), 0);
  EXPECT_EQ(write(disk, mib, 1, 1), ENOSPC);
  EXPECT_EQ(pool->figures().reserved_bytes, 0U);
  // What it gives back stays promised to it.
  ASSERT_EQ(driver->change(disk, IoOp::discard, 0, mib), 0);
  EXPECT_EQ(write(greedy, all, 1, 1), ENOSPC);
  EXPECT_EQ(write(disk, 5 * mib, mib, 1), 0);
}

TEST_F(PoolSpace, OnlyWhatThereIsCanBeReserved) {
  std::uint64_t all = free_bytes();
  EXPECT_EQ(pool->set_vm_settings(a, {.reserve = all + 4096}).error().kind, ErrorKind::no_space);
  ASSERT_TRUE(pool->set_vm_settings(a, {.reserve = all}));
  auto refused = pool->set_vm_settings(b, {.reserve = 4096});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::no_space);
  EXPECT_NE(refused.error().message.find("'b'"), std::string::npos);
  ASSERT_TRUE(pool->set_vm_settings(a, {.reserve = all - 4096}));
  EXPECT_TRUE(pool->set_vm_settings(b, {.reserve = 4096}));
  EXPECT_EQ(pool->set_vm_settings(a, {.quota = mib, .reserve = 2 * mib}).error().kind,
            ErrorKind::invalid_argument);
  EXPECT_EQ(pool->set_vm_settings(a, {.quota = 100}).error().kind, ErrorKind::invalid_argument);
  EXPECT_EQ(pool->set_vm_settings(root_id, {.quota = mib}).error().kind,
            ErrorKind::invalid_argument);
}

// A disk that moves away must not leave a promise behind that cannot be kept.
TEST_F(PoolSpace, MovingADiskKeepsReservesCovered) {
  std::uint64_t all = free_bytes();
  ASSERT_TRUE(pool->set_vm_settings(a, {.reserve = mib}));
  Disk& moving = make(a, "moving");
  ASSERT_EQ(write(moving, 0, mib, 1), 0);
  Disk& greedy = make(b, "greedy");
  ASSERT_EQ(write(greedy, 0, all - mib, 1), 0);
  EXPECT_EQ(pool->rename(a, "moving", b, "moving", false).error().kind, ErrorKind::no_space);
  PoolFigures f = pool->figures();
  EXPECT_LE(f.used_bytes + f.reserved_bytes, f.data_bytes);
  ASSERT_EQ(driver->change(greedy, IoOp::discard, 0, mib), 0);
  EXPECT_TRUE(pool->rename(a, "moving", b, "moving", false));
  Disk& disk = make(a, "d");
  EXPECT_EQ(write(disk, 0, mib, 1), 0);
}

TEST_F(PoolSpace, WhatWasAllocatedCanBeWrittenWhateverOthersDo) {
  Disk& disk = make(a, "d");
  ASSERT_EQ(driver->change(disk, IoOp::allocate, 0, mib), 0);
  ASSERT_EQ(write(disk, 2 * mib, mib, 7), 0);
  ASSERT_EQ(driver->change(disk, IoOp::zero, 2 * mib, mib), 0);
  Disk& greedy = make(b, "greedy");
  fill_pool(greedy);
  EXPECT_EQ(write(disk, 0, mib, 1), 0);
  EXPECT_EQ(write(disk, 2 * mib + 5, mib - 5, 2), 0);
  EXPECT_EQ(read(disk, 0, mib), filled(mib, 1));
  EXPECT_EQ(read(disk, 2 * mib, 5), filled(5, 0));
  reopen();
  Disk& again = find(a, "d");
  EXPECT_EQ(read(again, 0, mib), filled(mib, 1));
}

TEST_F(PoolSpace, FreedSpaceCanBeHadAgainAtOnce) {
  Disk& full = make(a, "full");
  fill_pool(full);
  std::uint64_t size = pool->attributes(full.id)->size;
  ASSERT_EQ(driver->change(full, IoOp::discard, 0, size / 2), 0);
  EXPECT_GT(pool->figures().releasing_bytes, 0U);
  Disk& other = make(b, "other");
  EXPECT_EQ(write(other, 0, free_bytes(), 1), 0);
  EXPECT_EQ(pool->figures().releasing_bytes, 0U);
}

// With the commit thread a write waits for the release instead of failing.
TEST_F(PoolSpace, AWriteWaitsForSpaceThatIsBeingReleased) {
  reopen_with_thread();
  Disk& full = make(a, "full");
  fill_pool(full);
  std::uint64_t size = pool->attributes(full.id)->size;
  Disk& other = make(b, "other");
  for (int round = 0; round < 20; ++round) {
    Disk& from = round % 2 == 0 ? full : other;
    Disk& to = round % 2 == 0 ? other : full;
    ASSERT_EQ(driver->change(from, IoOp::discard, 0, size), 0);
    ASSERT_EQ(write(to, 0, size, round), 0) << round;
    EXPECT_EQ(read(to, size - 4096, 4096), filled(4096, round));
  }
}

TEST_F(PoolSpace, ManyWritersWaitForOneRelease) {
  reopen_with_thread();
  Disk& full = make(a, "full");
  fill_pool(full);
  std::uint64_t size = pool->attributes(full.id)->size;
  Disk& other = make(b, "other");
  store->hold({.op = IoOp::discard}, FaultStore::HoldAt::submission);
  ASSERT_EQ(driver->change(full, IoOp::discard, 0, size / 2), 0);
  std::vector<std::unique_ptr<Request>> writes;
  for (std::uint64_t i = 0; i < 16; ++i)
    writes.push_back(queue->write(other, i * 8192, filled(4096, static_cast<int>(i))));
  store->wait_for_held(1);  // the punch; until it is done nobody gets a block
  queue->poll();
  for (auto& request : writes) EXPECT_FALSE(request->done());
  store->release_all();
  for (auto& request : writes) EXPECT_EQ(queue->wait(*request), 0);
  for (std::uint64_t i = 0; i < 16; ++i)
    EXPECT_EQ(read(other, i * 8192, 4096), filled(4096, static_cast<int>(i)));
}

// Without a thread the request itself commits and releases; what a request on the same
// loop still uses comes later.
TEST_F(PoolSpace, WithoutAThreadAWriteWaitsForRequestsInFlight) {
  Disk& full = make(a, "full");
  fill_pool(full);
  std::uint64_t size = pool->attributes(full.id)->size;
  Disk& other = make(b, "other");
  store->hold({.op = IoOp::read}, FaultStore::HoldAt::completion, 1);
  auto reading = queue->read(full, 0, 4096);
  while (store->held() == 0) queue->poll();
  ASSERT_EQ(driver->change(full, IoOp::discard, 0, size), 0);
  auto writing = queue->write(other, 0, filled(mib, 7));
  for (int i = 0; i < 100'000; ++i) queue->poll();
  EXPECT_FALSE(writing->done());
  store->release_all();
  EXPECT_EQ(queue->wait(*reading), 0);
  EXPECT_EQ(queue->wait(*writing), 0);
  EXPECT_EQ(reading->data, filled(4096, 0xf1));
  EXPECT_EQ(read(other, 0, mib), filled(mib, 7));
}

TEST_F(PoolSpace, WaitingWritesFailWhenThePoolFails) {
  reopen_with_thread();
  Disk& full = make(a, "full");
  fill_pool(full);
  ASSERT_TRUE(pool->commit());
  store->fail({.op = IoOp::discard}, EIO, 1, UINT64_MAX);
  ASSERT_EQ(driver->change(full, IoOp::discard, 0, mib), 0);
  Disk& other = make(b, "other");
  EXPECT_EQ(write(other, 0, mib, 1), EIO);
}

// Disks that are appended to in turn end up in runs of a chunk at least.
TEST_F(PoolSpace, InterleavedStreamsLieInLongRuns) {
  for (unsigned count : {2u, 4u, 8u}) {
    std::vector<Disk*> disks;
    for (unsigned i = 0; i < count; ++i)
      disks.push_back(&make(a, "d" + std::to_string(count) + "-" + std::to_string(i)));
    constexpr std::uint64_t piece = 16 * 1024;  // a quarter of this pool's chunk
    constexpr std::uint64_t each = mib;
    for (std::uint64_t at = 0; at < each; at += piece)
      for (Disk* disk : disks) ASSERT_EQ(write(*disk, at, piece, 1), 0);
    std::uint64_t runs = 0;
    for (Disk* disk : disks) {
      std::uint64_t next = 0;
      ASSERT_TRUE(pool->locate(*disk, 0, each, [&](const blockdev::Range& range) {
        EXPECT_EQ(range.kind, blockdev::RangeKind::data);
        runs += range.leaf_offset != next ? 1 : 0;
        next = range.leaf_offset + range.length;
        return true;
      }));
    }
    EXPECT_GE(count * each / runs, pool->figures().chunk_bytes) << count << " streams";
    for (Disk* disk : disks) {
      ASSERT_TRUE(pool->remove_disk(a, *pool->name_of(disk->id)));
      let_go(*disk);
    }
    ASSERT_TRUE(pool->release_freed());
  }
}

TEST_F(PoolSpace, ReleaseFreedLeavesNothingPending) {
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 0, 4 * mib, 1), 0);
  std::uint64_t with = below->newest().allocated_bytes();
  ASSERT_EQ(driver->change(disk, IoOp::discard, 0, 4 * mib), 0);
  EXPECT_EQ(pool->figures().releasing_bytes, 4 * mib);
  ASSERT_TRUE(pool->release_freed());
  EXPECT_EQ(pool->figures().releasing_bytes, 0U);
  EXPECT_LE(below->newest().allocated_bytes(), with - 4 * mib + 64 * 1024);
}

TEST_F(PoolSpace, FiguresAddUp) {
  Disk& one = make(a, "one");
  Disk& two = make(b, "two");
  ASSERT_EQ(write(one, 0, 3 * 4096, 1), 0);
  ASSERT_EQ(write(two, mib, 5 * 4096, 1), 0);
  PoolFigures f = pool->figures();
  EXPECT_EQ(f.pool_bytes, 16 * mib);
  EXPECT_EQ(f.metadata_bytes + f.data_bytes, f.pool_bytes);
  EXPECT_EQ(f.used_bytes, 8 * 4096U);
  EXPECT_EQ(f.vms, 2U);
  EXPECT_EQ(f.disks, 2U);
  EXPECT_EQ(f.disk_bytes, 3 * 4096 + mib + 5 * 4096);
  EXPECT_EQ(f.extents, 2U);
  EXPECT_GT(f.map_memory_bytes, 0U);
  EXPECT_EQ(pool->space(root_id)->used, f.used_bytes);
  EXPECT_EQ(pool->space(a)->used + pool->space(b)->used, f.used_bytes);
  EXPECT_EQ(pool->attributes(root_id)->allocated_bytes, f.used_bytes);
  EXPECT_EQ(pool->attributes(a)->allocated_bytes, 3 * 4096U);
}

}  // namespace
}  // namespace tidepool::pool
