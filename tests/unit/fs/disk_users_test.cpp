// Who may use a disk at the same time, and who may connect to its socket.
#include "fs/sockets/disk_users.h"

#include <gtest/gtest.h>

#include "fs/sockets/socket_mode.h"

namespace tidepool::elasticfs {
namespace {

constexpr pool::NodeId disk = 7, other = 8;

TEST(DiskUsers, TheCacheAndAFrontEndExcludeEachOther) {
  DiskUsers users;
  EXPECT_TRUE(users.open(disk).cached);
  const auto refused = users.attach(disk, "a.img");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::busy);
  EXPECT_NE(refused.error().message.find("a.img"), std::string::npos);
  EXPECT_TRUE(users.attach(other, "b.img"));
  users.close_cached(disk);
  ASSERT_TRUE(users.attach(disk, "a.img"));
  EXPECT_FALSE(users.open(disk).cached);
  EXPECT_FALSE(users.attach(disk, "a.img"));
}

TEST(DiskUsers, TheFirstOpeningAfterAFrontEndDropsWhatTheCacheHas) {
  DiskUsers users;
  EXPECT_TRUE(users.open(disk).keep_cache);
  users.close_cached(disk);
  ASSERT_TRUE(users.attach(disk, "a.img"));
  users.detach(disk);
  const auto first = users.open(disk), second = users.open(disk);
  EXPECT_TRUE(first.cached);
  EXPECT_FALSE(first.keep_cache);
  EXPECT_TRUE(second.keep_cache);
}

// As on Linux before 6.6, whose page cache does not see direct writes.
TEST(DiskUsers, AnOpeningAfterDirectWritesDropsWhatTheCacheHas) {
  DiskUsers users;
  EXPECT_TRUE(users.open(disk).keep_cache);
  users.open_direct(disk);
  EXPECT_FALSE(users.open(disk).keep_cache);
  EXPECT_TRUE(users.open(other).keep_cache);
  users.close_direct(disk);
  const auto first = users.open(disk), second = users.open(disk);
  EXPECT_TRUE(first.cached && second.cached);
  EXPECT_FALSE(first.keep_cache);
  EXPECT_TRUE(second.keep_cache);
}

TEST(DiskUsers, NothingShrinksUnderAFrontEnd) {
  DiskUsers users;
  ASSERT_TRUE(users.begin_shrink(disk));
  EXPECT_FALSE(users.attach(disk, "a.img"));
  users.end_shrink(disk);
  ASSERT_TRUE(users.attach(disk, "a.img"));
  EXPECT_FALSE(users.begin_shrink(disk));
  EXPECT_TRUE(users.begin_shrink(other));
}

pool::Attributes node(std::uint32_t mode, std::uint32_t uid, std::uint32_t gid) {
  pool::Attributes attributes;
  attributes.mode = mode;
  attributes.uid = uid;
  attributes.gid = gid;
  return attributes;
}

TEST(SocketMode, IsWhatFileAndDirectoryAllow) {
  const struct {
    std::uint32_t disk, vm, disk_uid, disk_gid, expected;
  } rows[] = {
      {0644, 0700, 1, 1, 0600}, {0444, 0700, 1, 1, 0},    {0666, 0700, 1, 1, 0600},
      {0660, 0710, 1, 1, 0660}, {0640, 0710, 1, 1, 0600}, {0660, 0710, 1, 2, 0600},
      {0666, 0777, 1, 1, 0660}, {0600, 0600, 1, 1, 0},    {0600, 0700, 2, 1, 0},
      {0600, 0710, 2, 1, 0},    {0600, 0711, 2, 1, 0600}, {0060, 0710, 1, 1, 0060},
  };
  for (const auto& row : rows) {
    EXPECT_EQ(socket_mode(node(row.disk, row.disk_uid, row.disk_gid), node(row.vm, 1, 1)),
              row.expected)
        << std::oct << row.disk << " in " << row.vm;
  }
}

}  // namespace
}  // namespace tidepool::elasticfs
