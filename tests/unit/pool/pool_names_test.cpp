// VMs, disks and their names.
#include <set>

#include "tests/unit/pool/pool_fixture.h"

namespace tidepool::pool {
namespace {

struct PoolNames : PoolTest {
  int disk_error(NodeId vm, std::string_view name) {
    auto made = pool->make_disk(vm, name, 0600, 0, 0);
    return made ? 0 : made.error().errno_value;
  }
};

TEST_F(PoolNames, WhatWasMadeIsFound) {
  auto disk = pool->make_disk(a, "d", 0640, 7, 8);
  ASSERT_TRUE(disk);
  EXPECT_EQ(disk->parent, a);
  EXPECT_EQ(disk->mode, 0640U);
  EXPECT_EQ(disk->uid, 7U);
  EXPECT_EQ(disk->gid, 8U);
  EXPECT_GT(disk->times.birth, 0);
  EXPECT_EQ(pool->lookup(a, "d")->id, disk->id);
  EXPECT_EQ(*pool->name_of(disk->id), "d");
  EXPECT_EQ(pool->attributes(a)->children, 1U);
  auto list = pool->list(a);
  ASSERT_EQ(list->size(), 1U);
  EXPECT_EQ(list->front().name, "d");
  EXPECT_EQ(list->front().kind, NodeKind::disk);
  EXPECT_EQ(pool->list(root_id)->size(), 2U);
}

TEST_F(PoolNames, NamesThatCannotBe) {
  for (const char* name : {"", ".", "..", "a/b"}) EXPECT_EQ(disk_error(a, name), EINVAL) << name;
  EXPECT_EQ(disk_error(a, std::string_view("a\0b", 3)), EINVAL);
  EXPECT_EQ(disk_error(a, std::string(256, 'x')), ENAMETOOLONG);
  EXPECT_EQ(disk_error(a, std::string(255, 'x')), 0);
  EXPECT_EQ(disk_error(a, std::string(255, 'x')), EEXIST);
  EXPECT_EQ(disk_error(a, "\xff\xfe\n"), 0);  // any other bytes are a name
}

TEST_F(PoolNames, EachThingHasItsPlace) {
  EXPECT_EQ(disk_error(root_id, "d"), EACCES);
  EXPECT_EQ(disk_error(9999, "d"), ENOENT);
  ASSERT_EQ(disk_error(a, "d"), 0);
  NodeId disk = pool->lookup(a, "d")->id;
  EXPECT_EQ(disk_error(disk, "e"), ENOTDIR);
  EXPECT_EQ(pool->list(disk).error().errno_value, ENOTDIR);
  EXPECT_EQ(pool->hold(a).error().errno_value, EISDIR);
  EXPECT_EQ(pool->remove_disk(root_id, "a").error().errno_value, EISDIR);
  EXPECT_EQ(pool->remove_vm("a").error().errno_value, ENOTEMPTY);
  EXPECT_EQ(pool->remove_vm("none").error().errno_value, ENOENT);
  EXPECT_EQ(pool->rename(root_id, "a", b, "a", false).error().errno_value, EACCES);
  EXPECT_EQ(pool->rename(a, "d", root_id, "d", false).error().errno_value, EACCES);
}

TEST_F(PoolNames, RenamingReplacesUnlessToldNotTo) {
  Disk& from = make(a, "from");
  Disk& to = make(b, "to");
  ASSERT_EQ(write(from, 0, 3 * 4096, 1), 0);
  ASSERT_EQ(write(to, 0, 5 * 4096, 2), 0);
  NodeId from_id = from.id;
  EXPECT_EQ(pool->rename(a, "from", b, "to", true).error().errno_value, EEXIST);
  let_go(to);
  ASSERT_TRUE(pool->rename(a, "from", b, "to", false));
  EXPECT_FALSE(pool->lookup(a, "from"));
  EXPECT_EQ(pool->lookup(b, "to")->id, from_id);
  EXPECT_EQ(pool->space(a)->used, 0U);
  EXPECT_EQ(pool->space(b)->used, 3 * 4096U);  // the space moves along
  EXPECT_EQ(pool->figures().releasing_bytes, 5 * 4096U);
  EXPECT_TRUE(pool->rename(b, "to", b, "to", false));
  reopen();
  EXPECT_EQ(pool->lookup(b, "to")->id, from_id);
  EXPECT_EQ(read(find(b, "to"), 0, 4096), filled(4096, 1));
  EXPECT_EQ(pool->figures().disks, 1U);
}

TEST_F(PoolNames, AReplacedDiskLivesOnWhileItIsHeld) {
  Disk& from = make(a, "from");
  Disk& to = make(a, "to");
  ASSERT_EQ(write(from, 0, 4096, 1), 0);
  ASSERT_EQ(write(to, 0, 4096, 2), 0);
  ASSERT_TRUE(pool->rename(a, "from", a, "to", false));
  EXPECT_EQ(read(to, 0, 4096), filled(4096, 2));
  EXPECT_EQ(read(from, 0, 4096), filled(4096, 1));
  EXPECT_EQ(pool->space(a)->used, 2 * 4096U);
  let_go(to);
  EXPECT_EQ(pool->space(a)->used, 4096U);
}

TEST_F(PoolNames, MovingAsksForQuota) {
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 0, 3 * 4096, 1), 0);
  ASSERT_TRUE(pool->set_vm_settings(b, {.quota = 2 * 4096}));
  EXPECT_EQ(pool->rename(a, "d", b, "d", false).error().errno_value, EDQUOT);
  EXPECT_TRUE(pool->lookup(a, "d"));
  ASSERT_TRUE(pool->set_vm_settings(b, {.quota = 3 * 4096}));
  EXPECT_TRUE(pool->rename(a, "d", b, "d", false));
}

TEST_F(PoolNames, VmsAreRenamedWithTheirDisks) {
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 0, 4096, 1), 0);
  ASSERT_TRUE(pool->set_vm_settings(a, {.quota = mib, .reserve = 4096}));
  EXPECT_TRUE(pool->rename(root_id, "a", root_id, "b", false));  // b was empty
  reopen();
  NodeId vm = pool->lookup(root_id, "b")->id;
  EXPECT_EQ(vm, a);
  EXPECT_EQ(pool->vm_settings(vm)->quota, mib);
  EXPECT_EQ(pool->vm_settings(vm)->reserve, 4096U);
  EXPECT_EQ(read(find(vm, "d"), 0, 4096), filled(4096, 1));
  ASSERT_TRUE(pool->make_vm("c", 0700, 0, 0));
  EXPECT_EQ(pool->rename(root_id, "c", root_id, "b", false).error().errno_value, ENOTEMPTY);
}

TEST_F(PoolNames, AnUnlinkedDiskLivesWhileItIsHeld) {
  Disk& disk = make(a, "d");
  ASSERT_EQ(write(disk, 0, 8192, 1), 0);
  ASSERT_TRUE(pool->remove_disk(a, "d"));
  EXPECT_FALSE(pool->lookup(a, "d"));
  EXPECT_EQ(read(disk, 0, 8192), filled(8192, 1));
  EXPECT_EQ(write(disk, 4096, 8192, 2), 0);
  EXPECT_EQ(read(disk, 4096, 8192), filled(8192, 2));
  EXPECT_EQ(driver->flush(disk), 0);
  EXPECT_TRUE(pool->set_size(disk, 100));
  EXPECT_TRUE(pool->set_attributes(disk.id, {.mode = 0400}));
  ASSERT_TRUE(pool->commit());
  EXPECT_EQ(pool->attributes(disk.id)->allocated_bytes, 3 * 4096U);
  ASSERT_TRUE(pool->remove_vm("a"));  // its account passes to the pool
  EXPECT_EQ(write(disk, mib, 4096, 3), 0);
  EXPECT_EQ(pool->figures().used_bytes, 4 * 4096U);
  NodeId id = disk.id;
  let_go(disk);
  EXPECT_EQ(pool->figures().used_bytes, 0U);
  EXPECT_FALSE(pool->attributes(id));
  reopen();
  EXPECT_EQ(pool->figures().disks, 0U);
  EXPECT_EQ(pool->figures().releasing_bytes, 0U);
}

TEST_F(PoolNames, IdsAreNeverUsedAgain) {
  std::set<NodeId> seen{root_id, a, b};
  for (int round = 0; round < 5; ++round) {
    for (int i = 0; i < 10; ++i) {
      auto vm = pool->make_vm("vm", 0700, 0, 0);
      ASSERT_TRUE(vm);
      EXPECT_TRUE(seen.insert(vm->id).second);
      auto disk = pool->make_disk(vm->id, "d", 0600, 0, 0);
      EXPECT_TRUE(seen.insert(disk->id).second);
      ASSERT_TRUE(pool->remove_disk(vm->id, "d"));
      ASSERT_TRUE(pool->remove_vm("vm"));
    }
    reopen();
  }
}

TEST_F(PoolNames, AttributesComeBack) {
  auto disk = pool->make_disk(a, "d", 0600, 1, 2);
  AttributeChanges changes{.mode = 04751, .uid = 5, .gid = 6, .access = 11, .modify = 22};
  auto changed = pool->set_attributes(disk->id, changes);
  ASSERT_TRUE(changed);
  ASSERT_TRUE(pool->set_attributes(root_id, {.mode = 0711}));
  reopen();
  auto back = pool->attributes(disk->id);
  EXPECT_EQ(back->mode, 04751U);
  EXPECT_EQ(back->uid, 5U);
  EXPECT_EQ(back->gid, 6U);
  EXPECT_EQ(back->times.access, 11);
  EXPECT_EQ(back->times.modify, 22);
  EXPECT_EQ(back->times.birth, changed->times.birth);
  EXPECT_EQ(pool->attributes(root_id)->mode, 0711U);
}

TEST_F(PoolNames, ThereIsALimitToTheirNumber) {
  int made = 0;
  while (disk_error(a, "d" + std::to_string(made)) == 0) ++made;
  EXPECT_EQ(disk_error(a, "more"), ENOSPC);
  EXPECT_EQ(made, 254);  // 256 with the two VMs
  reopen();
  EXPECT_EQ(pool->figures().disks, 254U);
  EXPECT_EQ(disk_error(a, "more"), ENOSPC);
  ASSERT_TRUE(pool->remove_disk(a, "d7"));
  EXPECT_EQ(disk_error(a, "more"), 0);
}

}  // namespace
}  // namespace tidepool::pool
