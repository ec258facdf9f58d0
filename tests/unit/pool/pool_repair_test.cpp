// Repairing a damaged pool: what comes back is a disk's own, or zeros.
#include <algorithm>
#include <cstring>

#include "blockdev/journal_format.h"
#include "fs/pool/checkpoint_format.h"
#include "fs/pool/superblock.h"
#include "tests/unit/pool/pool_fixture.h"

namespace tidepool::pool {

using namespace blockdev;
namespace {

using test::SparseImage;

Superblock superblock_of(const SparseImage& image) {
  Bytes slot(Superblock::encoded_size);
  image.read(0, slot);
  Superblock s;
  EXPECT_EQ(decode(slot, s), SlotState::valid);
  return s;
}

std::uint64_t salt_of(const Superblock& s) {
  std::uint64_t salt = 0;
  std::memcpy(&salt, s.uuid.data(), sizeof salt);
  return salt;
}

// Where in the store the journal ends and the next batch would go.
std::uint64_t journal_end(const SparseImage& image) {
  Superblock s = superblock_of(image);
  Bytes journal(s.journal.length);
  image.read(s.journal.offset, journal);
  std::vector<std::byte> records;
  std::uint64_t at = 0;
  for (std::uint64_t batch = first_batch(s.generation);; ++batch) {
    auto size = decode_batch(std::span(journal).subspan(at), salt_of(s), batch, records);
    if (!size || *size == 0) return s.journal.offset + at;
    at += *size;
  }
}

void flip(SparseImage& image, std::uint64_t at) {
  Bytes byte(1);
  image.read(at, byte);
  byte[0] ^= std::byte{1};
  image.write(at, byte);
}

bool mentions(const std::vector<std::string>& lines, const std::string& text) {
  return std::ranges::any_of(
      lines, [&](const std::string& line) { return line.find(text) != std::string::npos; });
}

struct PoolRepair : PoolTest {
  // Repairs `image` and opens what comes out of it, in place of the pool.
  CheckReport repair(const SparseImage& image, const Sabotage& sabotage = {}) {
    close();
    below = SimulatedStore::open(image);
    store = std::make_shared<FaultStore>(below);
    EXPECT_EQ(Pool::open(store, options).error().kind, ErrorKind::corrupt);
    auto foretold = check_pool(*store, false, sabotage);
    EXPECT_EQ(below->newest(), image) << "a check writes nothing";
    auto report = check_pool(*store, true, sabotage);
    EXPECT_TRUE(foretold && report);
    EXPECT_EQ(foretold->losses, report->losses);
    expect_sound();
    open();
    return *report;
  }

  // A checkpoint of these pages and a journal of one batch, in an image of their own.
  SparseImage crafted(const std::vector<Bytes>& pages, const Bytes& batch) {
    close();
    SparseImage image = below->newest();
    Superblock s = superblock_of(image);
    s.generation += 1;
    s.checkpoint_pages = pages.size();
    s.clean = false;
    for (std::size_t i = 0; i < pages.size(); ++i) {
      Bytes page(page_bytes);
      encode_page(page, s.generation, i, pages[i]);
      image.write(s.checkpoints[s.active_checkpoint].offset + i * page_bytes, page);
    }
    for (std::uint64_t slot : {0, 1}) image.write(slot * Superblock::slot_stride, encode(s));
    if (batch.empty()) return image;
    Bytes encoded(batch_bytes(batch.size()));
    encode_batch(encoded, salt_of(s), first_batch(s.generation), batch);
    image.write(s.journal.offset, encoded);
    return image;
  }

  static void put_node(Bytes& out, NodeId id, NodeId parent, NodeKind kind, const char* name) {
    NodeRecord n;
    n.id = id;
    n.parent = parent;
    n.kind = kind;
    n.mode = 0700;
    n.name = name;
    n.size = kind == NodeKind::disk ? mib : 0;
    encode_node(out, n);
  }
  static void put_map(Bytes& out, NodeId disk, std::uint64_t block, std::uint64_t pool_block,
                      std::uint32_t count) {
    PackedExtent packed = PackedExtent::pack({block, pool_block, count, false});
    encode_map(out, disk, {&packed, 1});
  }
  std::uint64_t data_start() {  // pool block
    Superblock s = superblock_of(below->newest());
    return (s.checkpoints[1].offset + s.checkpoints[1].length) / block_size;
  }
};

// A batch is damaged in which one disk gave up blocks that another has filled since.
struct DamagedJournal : PoolRepair {
  SparseImage damaged() {
    Disk& giver = make(a, "giver");
    EXPECT_EQ(write(giver, 0, 4 * mib, 0xaa), 0);
    EXPECT_EQ(driver->change(giver, IoOp::allocate, 4 * mib, mib), 0);
    EXPECT_TRUE(pool->commit());
    std::uint64_t batch = journal_end(below->newest());
    EXPECT_EQ(driver->change(giver, IoOp::discard, 0, 4 * mib), 0);
    EXPECT_TRUE(pool->release_freed());
    EXPECT_EQ(pool->figures().checkpoints, 1U) << "it is all in the journal";
    Disk& taker = make(b, "taker");
    fill_pool(taker);  // with 0xf1, in no map on the store yet
    SparseImage image = below->newest();
    flip(image, batch + 100);
    return image;
  }
};

TEST_F(DamagedJournal, NoDiskShowsWhatAnotherWrote) {
  CheckReport report = repair(damaged());
  Disk& giver = find(a, "giver");
  EXPECT_EQ(read(giver, 0, 5 * mib), filled(5 * mib, 0));
  EXPECT_TRUE(mentions(report.losses, "all changes from journal batch"));
  EXPECT_TRUE(mentions(report.losses, "disk 'a/giver': 4 MiB, which read as zeros"));
  EXPECT_EQ(pool->attributes(giver.id)->size, 4 * mib) << "names and sizes stay";
  EXPECT_EQ(pool->attributes(giver.id)->allocated_bytes, mib) << "provisioned space stays";
  // And it can all be had again.
  EXPECT_EQ(write(giver, 512, 1, 0x33), 0);
  Bytes expected = filled(block_size, 0);
  expected[512] = std::byte{0x33};
  EXPECT_EQ(read(giver, 0, block_size), expected);
  fill_pool(make(b, "newcomer"));
}

TEST_F(DamagedJournal, WithoutTheProtectionItDoes) {
  repair(damaged(), {.keep_doubtful_mappings = true});
  EXPECT_EQ(read(find(a, "giver"), 0, 4 * mib), filled(4 * mib, 0xf1));
}

TEST_F(DamagedJournal, ABatchThatIsMissingIsDamage) {
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 0, mib, 1), 0);
  ASSERT_TRUE(pool->commit());
  std::uint64_t batch = journal_end(below->newest());
  ASSERT_EQ(driver->change(disk, IoOp::discard, 0, mib), 0);
  ASSERT_TRUE(pool->commit());
  std::uint64_t end = journal_end(below->newest());
  make(b, "later");
  ASSERT_TRUE(pool->commit());
  SparseImage image = below->newest();
  image.clear(batch, end - batch);
  CheckReport report = repair(image);
  EXPECT_TRUE(mentions(report.losses, "disk 'a/d': 1 MiB"));
  EXPECT_EQ(read(find(a, "d"), 0, mib), filled(mib, 0));
}

TEST_F(PoolRepair, BlocksThatTwoDisksMapAreNobodys) {
  std::uint64_t first = data_start();
  Bytes page;
  put_node(page, 2, root_id, NodeKind::vm, "a");
  put_node(page, 3, root_id, NodeKind::vm, "b");
  put_node(page, 4, 2, NodeKind::disk, "one");
  put_map(page, 4, 0, first, 8);
  put_node(page, 5, 3, NodeKind::disk, "two");
  put_map(page, 5, 0, first + 6, 4);       // shares two blocks with one
  put_map(page, 5, 100, first + 1000, 4);  // its own
  put_node(page, 6, 3, NodeKind::disk, "three");
  put_map(page, 6, 0, first + 9, 2);  // shares one with two
  SparseImage image = crafted({page}, {});
  for (std::uint64_t block = 0; block < 11; ++block)
    image.write((first + block) * block_size, filled(block_size, 0x40));
  image.write((first + 1000) * block_size, filled(4 * block_size, 0x41));
  CheckReport report = repair(image);
  EXPECT_TRUE(mentions(report.findings, "in use already"));
  EXPECT_TRUE(mentions(report.losses, "disk 'b/two'"));
  auto zeros = filled(block_size, 0), own = filled(block_size, 0x40);
  auto block = [&](NodeId vm, const char* disk, std::uint64_t at) {
    return read(find(vm, disk), at * block_size, block_size);
  };
  EXPECT_EQ(block(2, "one", 6), zeros);
  EXPECT_EQ(block(2, "one", 7), zeros);
  EXPECT_EQ(block(3, "two", 0), zeros);
  EXPECT_EQ(block(3, "two", 1), zeros);
  EXPECT_EQ(block(3, "two", 3), zeros);
  EXPECT_EQ(block(3, "three", 0), zeros);
  EXPECT_EQ(block(2, "one", 0), own);
  EXPECT_EQ(block(3, "two", 100), filled(block_size, 0x41));
}

// The disk went over to a VM that is lost; the one that it came from must not get it back.
TEST_F(PoolRepair, ADiskThatMovedIntoALostVmIsLostWithIt) {
  std::uint64_t first = data_start();
  Bytes page, lost, moved;
  put_node(page, 2, root_id, NodeKind::vm, "a");
  put_node(page, 4, 2, NodeKind::disk, "d");
  put_map(page, 4, 0, first, 8);
  put_node(page, 5, 2, NodeKind::disk, "stays");
  put_map(page, 5, 0, first + 8, 8);
  put_node(lost, 3, root_id, NodeKind::vm, "b");
  put_node(moved, 4, 3, NodeKind::disk, "d");
  SparseImage image = crafted({page, lost}, moved);
  Superblock s = superblock_of(image);
  flip(image, s.checkpoints[s.active_checkpoint].offset + page_bytes + 50);
  image.write((first + 8) * block_size, filled(block_size, 0x42));
  CheckReport report = repair(image);
  EXPECT_FALSE(report.losses.empty());
  EXPECT_FALSE(pool->lookup(2, "d"));
  EXPECT_EQ(read(find(2, "stays"), 0, block_size), filled(block_size, 0x42));
}

// Where nothing is lost, a record that does not fit says that the journal is not to be
// believed.
TEST_F(PoolRepair, ARecordThatFitsNothingIsDamage) {
  Bytes page, batch;
  put_node(page, 2, root_id, NodeKind::vm, "a");
  put_node(page, 4, 2, NodeKind::disk, "d");
  put_map(page, 4, 0, data_start(), 8);
  put_map(batch, 4, 0, 16 * mib / block_size, 8);  // outside the pool
  SparseImage image = crafted({page}, batch);
  image.write(data_start() * block_size, filled(block_size, 0x43));
  repair(image);
  EXPECT_EQ(read(find(2, "d"), 0, block_size), filled(block_size, 0));
}

TEST_F(PoolRepair, ADamagedSuperblockCostsNothing) {
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 0, mib, 1), 0);
  ASSERT_TRUE(pool->commit());
  SparseImage image = below->newest();
  flip(image, 40);
  close();
  below = SimulatedStore::open(image);
  store = std::make_shared<FaultStore>(below);
  auto report = check_pool(*store, true);
  ASSERT_TRUE(report);
  EXPECT_TRUE(report->losses.empty());
  EXPECT_FALSE(report->repaired.empty());
  open();
  EXPECT_EQ(read(find(a, "d"), 0, mib), filled(mib, 1));
}

}  // namespace
}  // namespace tidepool::pool
