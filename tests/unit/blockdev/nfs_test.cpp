// What the NFS store parses and maps by itself, without a server.
#include <gtest/gtest.h>

#include <array>
#include <cerrno>

#include "blockdev/stores/nfs_errors.h"
#include "blockdev/stores/nfs_protocol.h"
#include "blockdev/stores/nfs_uri.h"

namespace tidepool::blockdev {
namespace {

TEST(NfsUri, TakesApartWhatLibnfsTakesApart) {
  const auto plain = parse_nfs_uri("nfs://host/export/dir/disk.img");
  ASSERT_TRUE(plain);
  EXPECT_EQ(*plain, (NfsLocation{.server = "host", .directory = "/export/dir", .file = "disk.img"}));
  const auto full = parse_nfs_uri("nfs://[::1]/a?version=4&nfsport=2050&uid=7&gid=8&mountport=9");
  ASSERT_TRUE(full);
  EXPECT_EQ(*full, (NfsLocation{.server = "::1",
                                .directory = "/",
                                .file = "a",
                                .version = 4,
                                .nfs_port = 2050,
                                .mount_port = 9,
                                .uid = 7,
                                .gid = 8}));
}

TEST(NfsUri, RefusesTheRest) {
  for (const char* uri :
       {"nbd://host/a/b", "nfs://", "nfs://host", "nfs:///a/b", "nfs://host/a/", "nfs://host/..",
        "nfs://host/a?version=2", "nfs://host/a?nfsport=0", "nfs://host/a?nfsport=65536",
        "nfs://host/a?uid=-1", "nfs://host/a?uid=4x", "nfs://host/a?readahead=1"}) {
    EXPECT_FALSE(parse_nfs_uri(uri)) << uri;
  }
}

TEST(NfsErrors, AreWhatTheyMeanForADisk) {
  using Remedy = NfsError::Remedy;
  const std::array<std::tuple<std::uint32_t, int, Remedy>, 10> rows{{
      {5, EIO, Remedy::none},
      {13, EACCES, Remedy::none},
      {28, ENOSPC, Remedy::none},
      {30, EROFS, Remedy::none},
      {69, EDQUOT, Remedy::none},
      {70, ESTALE, Remedy::none},
      {10008, EAGAIN, Remedy::later},  // jukebox, delay
      {10013, EAGAIN, Remedy::later},  // grace
      {10023, EIO, Remedy::reconnect},
      {4711, EIO, Remedy::none},
  }};
  for (const auto& [status, error, remedy] : rows) {
    EXPECT_EQ(nfs_error(status).error, error) << status;
    EXPECT_EQ(nfs_error(status).remedy, remedy) << status;
  }
}

TEST(Nfs4Attributes, AreTakenOnlyWhole) {
  constexpr std::uint32_t mask = 1U << 1 | 1U << 4 | 1U << 30 | 1U << 31;
  std::array<std::byte, 28> values{};
  values[3] = std::byte{1};   // a regular file
  values[10] = std::byte{2};  // 512 bytes
  values[18] = std::byte{1};
  values[26] = std::byte{1};
  NfsFile file;
  const std::array words{mask};
  ASSERT_TRUE(decode_nfs4_attributes(words, values, file));
  EXPECT_TRUE(file.is_regular);
  EXPECT_EQ(file.size, 512U);
  for (std::size_t length = 0; length < values.size(); ++length)
    EXPECT_FALSE(decode_nfs4_attributes(words, std::span(values).first(length), file)) << length;
  const std::array more{mask, 1U};
  EXPECT_FALSE(decode_nfs4_attributes(more, values, file));
}

TEST(Nfs4Attributes, TellWhenTheContentChanged) {
  const std::array mask{1U << 1 | 1U << 4, 1U << (53 - 32)};
  std::array<std::byte, 24> values{};
  values[3] = std::byte{1};   // a regular file
  values[19] = std::byte{2};  // seconds
  values[23] = std::byte{5};  // nanoseconds
  NfsFile file;
  ASSERT_TRUE(decode_nfs4_attributes(mask, values, file));
  EXPECT_EQ(file.changed_ns, 2'000'000'005);
  for (std::size_t length = 0; length < values.size(); ++length)
    EXPECT_FALSE(decode_nfs4_attributes(mask, std::span(values).first(length), file)) << length;
}

}  // namespace
}  // namespace tidepool::blockdev
