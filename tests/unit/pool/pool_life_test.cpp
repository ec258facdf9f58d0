// Making, opening, closing, growing a pool; what a failing store does to it.
#include <atomic>
#include <cstring>
#include <thread>

#include "base/size_text.h"
#include "blockdev/sync_channel.h"
#include "fs/pool/superblock.h"
#include "tests/unit/pool/pool_fixture.h"

namespace tidepool::pool {
namespace {

struct PoolLife : PoolTest {
  FaultStore::Filter journal_writes() {
    Superblock s = superblock();
    return {.op = IoOp::write, .offset = s.journal.offset, .length = s.journal.length};
  }
  Superblock superblock() {
    Bytes slot(Superblock::encoded_size);
    below->newest().read(0, slot);
    Superblock s;
    EXPECT_EQ(decode(slot, s), SlotState::valid);
    return s;
  }
  // A new pool object on what a power loss leaves; the old one stays as it is.
  std::unique_ptr<Pool> after_power_loss(test::CrashMode mode) {
    crashed = SimulatedStore::open(below->crash(1, mode));
    auto opened = Pool::open(crashed, {.background = false});
    if (!opened) ADD_FAILURE() << opened.error().message;
    return opened ? std::move(*opened) : nullptr;
  }
  std::shared_ptr<SimulatedStore> crashed;
};

Bytes content(Pool& pool, const char* vm, const char* disk, std::uint64_t length) {
  Bytes data(length);
  PoolDriver driver(pool);
  Disk* held = pool.hold(pool.lookup(pool.lookup(root_id, vm)->id, disk)->id).value();
  EXPECT_EQ(driver.read(*held, 0, data), 0);
  pool.release(held);
  return data;
}

TEST_F(PoolLife, ACleanCloseLeavesNothingToRecover) {
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 0, mib, 1), 0);
  ASSERT_EQ(driver->flush(disk), 0);
  ASSERT_EQ(driver->change(disk, IoOp::discard, 0, 4096), 0);
  reopen();
  PoolFigures f = pool->figures();
  EXPECT_EQ(f.recovered_records, 0U);
  EXPECT_EQ(f.releasing_bytes, 0U);
  EXPECT_EQ(f.used_bytes, mib - 4096);
  EXPECT_EQ(read(find(a, "d"), 4096, mib - 4096), filled(mib - 4096, 1));
  std::string uuid = f.uuid;
  reopen();
  EXPECT_EQ(pool->figures().uuid, uuid);
}

TEST_F(PoolLife, WhatWasFlushedIsThereAfterAPowerLoss) {
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 0, mib, 1), 0);
  ASSERT_EQ(driver->flush(disk), 0);
  ASSERT_EQ(write(disk, mib, mib, 2), 0);
  auto after = after_power_loss(test::CrashMode::drop_all);
  ASSERT_TRUE(after);
  EXPECT_GT(after->figures().recovered_records, 0U);
  EXPECT_EQ(after->attributes(disk.id)->size, mib);
  EXPECT_EQ(content(*after, "a", "d", mib), filled(mib, 1));
}

TEST_F(PoolLife, AFullJournalBecomesACheckpoint) {
  Disk& disk = make(a, "d");
  std::uint64_t before = pool->figures().checkpoints;
  int value = 0;
  while (pool->figures().checkpoints < before + 3) {
    ++value;
    std::uint64_t block = static_cast<std::uint64_t>(value) * 7 % 200;
    ASSERT_EQ(write(disk, block * 4096, 4096, value), 0);
    ASSERT_EQ(driver->flush(disk), 0);
    ASSERT_LT(value, 10'000);
  }
  Bytes expected = read(disk, 0, 200 * 4096);
  auto after = after_power_loss(test::CrashMode::drop_all);
  ASSERT_TRUE(after);
  EXPECT_EQ(content(*after, "a", "d", 200 * 4096), expected);
}

TEST_F(PoolLife, ManyExtentsTakeManyPages) {
  Disk& one = make(a, "one");
  Disk& two = make(b, "two");
  std::uint64_t blocks = free_bytes() / block_size;
  for (std::uint64_t i = 0; i < blocks / 2; ++i) {  // in turn, so that nothing joins
    ASSERT_EQ(write(one, i * 2 * block_size, block_size, 1), 0);
    ASSERT_EQ(write(two, i * 3 * block_size, block_size, 2), 0);
  }
  ASSERT_GT(pool->figures().extents, blocks - 2);
  reopen();
  EXPECT_GT(superblock().checkpoint_pages, 0U);
  Disk& back = find(b, "two");
  for (std::uint64_t i = 0; i < blocks / 2; i += 50) {
    EXPECT_EQ(read(back, i * 3 * block_size, block_size), filled(block_size, 2));
    EXPECT_EQ(read(back, (i * 3 + 1) * block_size, block_size), filled(block_size, 0));
  }
}

TEST_F(PoolLife, ReadOnlyChangesNothing) {
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 0, 8192, 1), 0);
  close();
  auto before = below->counters().changes();
  options.read_only = true;
  open();
  Disk& there = find(a, "d");
  EXPECT_EQ(read(there, 0, 8192), filled(8192, 1));
  EXPECT_EQ(write(there, 0, 1, 1), EROFS);
  EXPECT_EQ(driver->change(there, IoOp::discard, 0, 4096), EROFS);
  EXPECT_EQ(driver->flush(there), 0);
  EXPECT_EQ(pool->make_vm("c", 0, 0, 0).error().errno_value, EROFS);
  EXPECT_EQ(pool->make_disk(a, "c", 0, 0, 0).error().errno_value, EROFS);
  EXPECT_EQ(pool->remove_disk(a, "d").error().errno_value, EROFS);
  EXPECT_EQ(pool->remove_vm("b").error().errno_value, EROFS);
  EXPECT_EQ(pool->rename(a, "d", b, "d", false).error().errno_value, EROFS);
  EXPECT_EQ(pool->set_attributes(a, {}).error().errno_value, EROFS);
  EXPECT_EQ(pool->set_size(there, 1).error().errno_value, EROFS);
  EXPECT_EQ(pool->set_vm_settings(a, {}).error().errno_value, EROFS);
  EXPECT_EQ(pool->grow(32 * mib).error().errno_value, EROFS);
  close();
  EXPECT_EQ(below->counters().changes(), before);
}

TEST_F(PoolLife, ReadOnlyReadsWhatACrashLeft) {
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 0, 8192, 1), 0);
  ASSERT_EQ(driver->flush(disk), 0);
  SimulatedStore::Options read_only;
  read_only.read_only = true;
  auto image = below->crash(1, test::CrashMode::drop_all);
  auto left = SimulatedStore::open(image, read_only);
  EXPECT_EQ(Pool::open(left, {}).error().kind, ErrorKind::permission);
  auto after = Pool::open(left, {.read_only = true});
  ASSERT_TRUE(after) << after.error().message;
  EXPECT_GT((*after)->figures().recovered_records, 0U);
  EXPECT_EQ(content(**after, "a", "d", 8192), filled(8192, 1));
  after->reset();
  EXPECT_EQ(left->newest(), image);
}

// --- a failing store ---

TEST_F(PoolLife, WhenTheJournalFailsWritingStopsAndReadingGoesOn) {
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 0, 8192, 1), 0);
  ASSERT_EQ(driver->flush(disk), 0);
  ASSERT_EQ(write(disk, 8192, 8192, 2), 0);
  store->fail(journal_writes(), EIO);
  EXPECT_EQ(driver->flush(disk), EIO);
  // For good, though the store works again: what it holds is not known any more.
  EXPECT_EQ(driver->flush(disk), EIO);
  EXPECT_EQ(write(disk, 0, 4096, 3), EIO);
  EXPECT_EQ(driver->change(disk, IoOp::discard, 0, 4096), EIO);
  EXPECT_FALSE(pool->commit());
  EXPECT_FALSE(pool->release_freed());
  int async = -1;
  pool->commit_async([&](int error) { async = error; });
  EXPECT_EQ(async, EIO);
  EXPECT_EQ(read(disk, 0, 8192), filled(8192, 1));
  EXPECT_EQ(read(disk, 8192, 8192), filled(8192, 2));
  std::uint64_t changes = below->counters().changes();
  close();
  EXPECT_EQ(below->counters().changes(), changes) << "a failed pool is not written at its close";
  open();
  EXPECT_EQ(read(find(a, "d"), 0, 8192), filled(8192, 1));
  EXPECT_EQ(write(find(a, "d"), 0, 8192, 4), 0);
}

class FailingFlush : public PoolLife, public testing::WithParamInterface<std::uint64_t> {};
INSTANTIATE_TEST_SUITE_P(, FailingFlush, testing::Values(1, 2));  // of the data, of the journal

TEST_P(FailingFlush, IsAnErrorForGood) {
  reopen_with_thread();
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 0, 8192, 1), 0);
  store->fail({.op = IoOp::flush}, EIO, GetParam());
  EXPECT_EQ(driver->flush(disk), EIO);
  EXPECT_EQ(driver->flush(disk), EIO);
  EXPECT_EQ(driver->write(disk, 0, filled(4096, 2), true), EIO);
}

TEST_F(PoolLife, AReadErrorIsPassedOn) {
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 0, 8192, 1), 0);
  store->fail({.op = IoOp::read}, EIO);
  Bytes data(8192);
  EXPECT_EQ(driver->read(disk, 0, data), EIO);
  EXPECT_EQ(driver->read(disk, 0, data), 0);
}

TEST_F(PoolLife, OpeningOnAFailingStore) {
  make(a, "d");
  close();
  for (auto op : {IoOp::read, IoOp::write, IoOp::flush}) {
    store->fail({.op = op}, EIO);
    auto opened = Pool::open(store, options);
    EXPECT_FALSE(opened);
    store->clear();
  }
  open();
  EXPECT_TRUE(pool->lookup(a, "d"));
}

// --- durability ---

TEST_F(PoolLife, AScratchVmDoesNotWaitForTheStore) {
  ASSERT_TRUE(pool->set_vm_settings(a, {.durability = Durability::scratch}));
  Disk& scratch = make(a, "scratch");
  Disk& durable = make(b, "durable");
  ASSERT_TRUE(pool->commit());
  ASSERT_EQ(write(scratch, 0, 4096, 1), 0);
  std::uint64_t flushes = below->counters().flushes;
  EXPECT_EQ(driver->flush(scratch), 0);
  EXPECT_EQ(driver->write(scratch, 0, filled(4096, 2), true), 0);
  EXPECT_EQ(below->counters().flushes, flushes);
  EXPECT_EQ(driver->flush(durable), 0);
  EXPECT_GT(below->counters().flushes, flushes);
}

TEST_F(PoolLife, TheThreadCommitsOnItsOwn) {
  options.commit_interval = std::chrono::milliseconds(5);
  reopen_with_thread();
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 0, 4096, 1), 0);
  auto committed = [&] {
    auto after = after_power_loss(test::CrashMode::drop_all);
    auto found = after ? after->lookup(a, "d") : fail(ErrorKind::not_found, "no pool");
    return found && found->size == 4096;
  };
  while (!committed()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

TEST_F(PoolLife, FlushesOfManyDisksShareACommit) {
  reopen_with_thread();
  std::vector<std::unique_ptr<Request>> flushes;
  std::vector<Disk*> disks;
  for (int i = 0; i < 20; ++i) {
    disks.push_back(&make(a, "d" + std::to_string(i)));
    ASSERT_EQ(write(*disks.back(), 0, 4096, i), 0);
  }
  ASSERT_TRUE(pool->commit());
  std::uint64_t before = pool->figures().commits;
  store->hold({.op = IoOp::flush}, FaultStore::HoldAt::submission, 1);
  for (Disk* disk : disks) ASSERT_EQ(write(*disk, 0, 4096, 1), 0);
  flushes.push_back(queue->submit(*disks[0], IoOp::flush, 0, 0));
  store->wait_for_held(1);
  for (Disk* disk : disks) flushes.push_back(queue->submit(*disk, IoOp::flush, 0, 0));
  store->release_all();
  for (auto& flush : flushes) EXPECT_EQ(queue->wait(*flush), 0);
  EXPECT_LE(pool->figures().commits - before, 4U);  // two, and the ones of the clock
}

// --- making and growing ---

TEST_F(PoolLife, APoolIsNotOverwrittenUnlessForced) {
  make(a, "d");
  close();
  auto refused = Pool::create(*store, {.size = 0, .chunk_bytes = 64 * 1024});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::exists);
  ASSERT_TRUE(Pool::create(*store, {.size = 0, .chunk_bytes = 64 * 1024}, true));
  open();
  EXPECT_EQ(pool->figures().vms, 0U);
}

TEST_F(PoolLife, WhatIsNoPoolIsSaidNotToBe) {
  auto blank = SimulatedStore::open(16 * mib);
  auto error = Pool::open(blank, options).error();
  EXPECT_EQ(error.kind, ErrorKind::invalid_argument);
  EXPECT_NE(error.message.find("is not a pool"), std::string::npos);
  EXPECT_NE(error.message.find(blank->name()), std::string::npos);
  EXPECT_EQ(Pool::open(SimulatedStore::open(4096), options).error().kind,
            ErrorKind::invalid_argument);
  EXPECT_EQ(Pool::create(*SimulatedStore::open(mib), {}).error().kind, ErrorKind::invalid_argument);
  EXPECT_EQ(Pool::create(*blank, {.size = 32 * mib}).error().kind, ErrorKind::invalid_argument);
}

TEST_F(PoolLife, GrowingOnlineUnderWrites) {
  reopen_with_thread();
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 0, mib, 1), 0);
  std::uint64_t before = pool->figures().data_bytes;
  std::atomic<bool> stop{false};
  std::atomic<int> error{0};
  std::thread writer([&] {
    PoolDriver own(*pool);
    for (std::uint64_t i = 0; !stop; ++i)
      if (int e = own.write(disk, mib + i % 100 * 4096, filled(4096, 2))) error = e;
  });
  for (int i = 0; i < 4; ++i) {
    below->set_size(below->geometry().size + 8 * mib);
    auto grown = pool->grow(below->geometry().size);
    EXPECT_TRUE(grown) << grown.error().message;
  }
  stop = true;
  writer.join();
  EXPECT_EQ(error, 0);
  EXPECT_EQ(pool->figures().pool_bytes, 48 * mib);
  EXPECT_GT(pool->figures().data_bytes, before + 30 * mib);
  ASSERT_TRUE(pool->release_freed());
  Disk& rest = make(b, "rest");
  fill_pool(rest);  // the space is there to be had, that of the old areas too
  ASSERT_EQ(driver->flush(rest), 0);
  {
    auto after = after_power_loss(test::CrashMode::drop_all);
    ASSERT_TRUE(after);
    EXPECT_EQ(content(*after, "a", "d", mib), filled(mib, 1));
    EXPECT_EQ(after->figures().pool_bytes, 48 * mib);
  }
  reopen();
  EXPECT_EQ(read(find(a, "d"), 0, mib), filled(mib, 1));
  close();
  expect_sound();
}

TEST_F(PoolLife, GrowingRefusals) {
  EXPECT_EQ(pool->grow(32 * mib).error().kind, ErrorKind::invalid_argument);  // store too small
  EXPECT_EQ(pool->grow(8 * mib).error().kind, ErrorKind::invalid_argument);
  EXPECT_EQ(pool->grow(16 * mib).error().kind, ErrorKind::invalid_argument);
  below->set_size(17 * mib);
  auto grown = pool->grow(16 * mib + 64 * 1024);  // less than the new areas take
  EXPECT_EQ(grown.error().kind, ErrorKind::invalid_argument);
  std::uint64_t least = 0;  // as the message has it: the first that is enough
  for (std::uint64_t size = 16 * mib; size <= 17 * mib && least == 0; size += 64 * 1024)
    if (grown.error().message.find(format_size_exactly(size) + " is the least") !=
        std::string::npos)
      least = size;
  ASSERT_NE(least, 0U) << grown.error().message;
  EXPECT_FALSE(pool->grow(least - 64 * 1024));
  Disk& disk = make(a, "d");  // none of it has hurt
  EXPECT_EQ(write(disk, 0, 4096, 1), 0);
  EXPECT_EQ(driver->flush(disk), 0);
  EXPECT_EQ(pool->figures().pool_bytes, 16 * mib);
  EXPECT_TRUE(pool->grow(least));
  EXPECT_EQ(write(disk, 0, 4096, 2), 0);
}

TEST_F(PoolLife, ADiskAsAStore) {
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 0, mib, 1), 0);
  {
    auto disk_store = open_disk_store(*pool, disk.id);
    ASSERT_TRUE(disk_store) << disk_store.error().message;
    EXPECT_EQ((*disk_store)->geometry().size, mib);
    auto channel = blockdev::SyncChannel::open(**disk_store).value();
    blockdev::AlignedBuffer data(8192);
    ASSERT_TRUE(channel->read(4096, data.span()));
    EXPECT_EQ(data.span()[8191], std::byte{1});
    std::memset(data.data(), 5, data.size());
    ASSERT_TRUE(channel->write(8192, data.span()));
    ASSERT_TRUE(channel->flush());
    EXPECT_FALSE(channel->read(mib, data.span()));
    EXPECT_FALSE(channel->write(mib - 4096, data.span()));
    ASSERT_TRUE(pool->remove_disk(a, "d"));  // held: stays readable
    let_go(disk);
    ASSERT_TRUE(channel->read(8192, data.span()));
    EXPECT_EQ(data.span()[0], std::byte{5});
  }
  EXPECT_EQ(pool->figures().used_bytes, 0U);
  EXPECT_FALSE(open_disk_store(*pool, a));
}

}  // namespace
}  // namespace tidepool::pool
