#include "blockdev/stores/file_store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "blockdev/stores/file_channel.h"
#include "blockdev/sync_channel.h"

namespace tidepool::blockdev {
namespace {

constexpr std::uint64_t mib = 1 << 20;

// A file of its own for each test, in $TMPDIR or /tmp.
class FileStoreTest : public testing::TestWithParam<bool> {
 protected:
  FileStoreTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "file-store-XXXXXX").string();
    UniqueFd fd(::mkstemp(pattern.data()));
    EXPECT_TRUE(fd);
    path_ = pattern;
    EXPECT_EQ(::ftruncate(fd.get(), 4 * mib), 0);
  }
  ~FileStoreTest() override { std::filesystem::remove(path_); }

  std::shared_ptr<FileStore> open(FileStoreOptions options = {}) {
    options.direct = direct();
    auto store = FileStore::open(path_, options);
    EXPECT_TRUE(store) << store.error().message;
    return std::move(*store);
  }
  static bool direct() { return GetParam(); }

  std::filesystem::path path_;
};

INSTANTIATE_TEST_SUITE_P(, FileStoreTest, testing::Values(true, false),
                         [](const auto& info) { return info.param ? "Direct" : "Buffered"; });

AlignedBuffer pattern(std::size_t size, unsigned seed) {
  AlignedBuffer buffer(size);
  std::uint64_t state = seed * 0x9e3779b97f4a7c15 + 1;
  for (auto& byte : buffer.span()) {
    state = state * 6364136223846793005 + 1442695040888963407;
    byte = static_cast<std::byte>(state >> 56);
  }
  return buffer;
}

bool all_zero(std::span<const std::byte> data) {
  for (const auto byte : data) {
    if (byte != std::byte{}) return false;
  }
  return true;
}

// Submits one request on a loop of its own and gives its error.
int submit_and_wait(BlockStore& store, IoRequest request) {
  struct Waiting : IoRequest {
    int error = -1;
  } waiting;
  static_cast<IoRequest&>(waiting) = request;
  waiting.complete = [](IoRequest& self, int error) { static_cast<Waiting&>(self).error = error; };
  auto loop = EventLoop::create({});
  auto channel = store.open_channel(**loop);
  (*channel)->submit(waiting);
  while (waiting.error < 0) {
    if (!(*loop)->poll(true)) return -1;
  }
  return waiting.error;
}

TEST_P(FileStoreTest, ReadsBackWhatWasWritten) {
  auto store = open();
  auto channel = SyncChannel::open(*store).value();
  auto data = pattern(mib, 1);
  ASSERT_TRUE(channel->write(mib, data.span()));
  ASSERT_TRUE(channel->flush());
  AlignedBuffer back(3 * mib);
  ASSERT_TRUE(channel->read(0, back.span()));
  EXPECT_TRUE(all_zero(back.span().first(mib)));
  EXPECT_EQ(std::memcmp(back.data() + mib, data.data(), mib), 0);
  EXPECT_TRUE(all_zero(back.span().last(mib)));

  // Seen by the file system too, not only by us.
  std::ifstream file(path_, std::ios::binary);
  file.seekg(mib);
  std::vector<char> seen(mib);
  file.read(seen.data(), mib);
  EXPECT_EQ(std::memcmp(seen.data(), data.data(), mib), 0);
}

TEST_P(FileStoreTest, ScattersAndGathers) {
  auto store = open();
  auto one = pattern(512, 1), two = pattern(4096, 2), three = pattern(1536, 3);
  const std::array<iovec, 3> buffers{{{one.data(), 512}, {two.data(), 4096}, {three.data(), 1536}}};
  ASSERT_EQ(submit_and_wait(*store, {.op = IoOp::write,
                                     .force_unit_access = true,
                                     .offset = 512,
                                     .length = 6144,
                                     .buffers = buffers.data(),
                                     .buffer_count = 3}),
            0);
  AlignedBuffer left(2048), right(4096);
  const std::array<iovec, 2> back{{{left.data(), 2048}, {right.data(), 4096}}};
  ASSERT_EQ(submit_and_wait(*store, {.op = IoOp::read,
                                     .offset = 512,
                                     .length = 6144,
                                     .buffers = back.data(),
                                     .buffer_count = 2}),
            0);
  EXPECT_EQ(std::memcmp(left.data(), one.data(), 512), 0);
  EXPECT_EQ(std::memcmp(left.data() + 512, two.data(), 1536), 0);
  EXPECT_EQ(std::memcmp(right.data(), two.data() + 1536, 2560), 0);
  EXPECT_EQ(std::memcmp(right.data() + 2560, three.data(), 1536), 0);
}

TEST_P(FileStoreTest, HandlesMoreBuffersThanTheKernelTakesAtOnce) {
  auto store = open();
  constexpr std::size_t count = 3000, each = 512;
  auto data = pattern(count * each, 5);
  AlignedBuffer back(count * each);
  const auto split = [](std::byte* base) {
    std::vector<iovec> buffers;
    for (std::size_t i = 0; i < count; ++i) buffers.push_back({base + i * each, each});
    return buffers;
  };
  const auto from = split(data.data()), to = split(back.data());
  IoRequest request{
      .op = IoOp::write, .length = count * each, .buffers = from.data(), .buffer_count = count};
  ASSERT_EQ(submit_and_wait(*store, request), 0);
  request.op = IoOp::read;
  request.buffers = to.data();
  ASSERT_EQ(submit_and_wait(*store, request), 0);
  EXPECT_EQ(std::memcmp(data.data(), back.data(), count * each), 0);
}

TEST_P(FileStoreTest, ManyRequestsInFlight) {
  auto store = open();
  auto loop = EventLoop::create({.entries = 8}).value();
  auto channel = store->open_channel(*loop).value();
  struct One : IoRequest {
    iovec buffer{};
    int* pending = nullptr;
    int error = -1;
  };
  constexpr int count = 512;
  auto data = pattern(count * 4096, 7);
  int pending = count;
  std::vector<One> requests(count);
  for (std::size_t i = 0; i < count; ++i) {
    One& one = requests[i];
    one.op = IoOp::write;
    one.offset = (count - 1 - i) * 4096;
    one.length = 4096;
    one.buffer = {data.data() + one.offset, 4096};
    one.buffers = &one.buffer;
    one.buffer_count = 1;
    one.pending = &pending;
    one.complete = [](IoRequest& self, int error) {
      static_cast<One&>(self).error = error;
      --*static_cast<One&>(self).pending;
    };
    channel->submit(one);
  }
  while (pending > 0) ASSERT_TRUE(loop->poll(true));
  for (const auto& one : requests) EXPECT_EQ(one.error, 0);
  AlignedBuffer back(count * 4096);
  ASSERT_TRUE(SyncChannel::open(*store).value()->read(0, back.span()));
  EXPECT_EQ(std::memcmp(data.data(), back.data(), back.size()), 0);
}

TEST_P(FileStoreTest, RefusesWhatBreaksTheRules) {
  auto store = open();
  const auto geometry = store->geometry();
  const std::uint32_t block = geometry.logical_block;
  AlignedBuffer data(2 * mib);
  const auto error_of = [&](IoOp op, std::uint64_t offset, std::uint64_t length,
                            std::size_t shift = 0) {
    const iovec buffer{data.data() + shift, static_cast<std::size_t>(length)};
    return submit_and_wait(
        *store,
        {.op = op, .offset = offset, .length = length, .buffers = &buffer, .buffer_count = 1});
  };
  for (const auto op : {IoOp::read, IoOp::write}) {
    EXPECT_EQ(error_of(op, 0, block), 0);
    EXPECT_EQ(error_of(op, block / 2, block), EINVAL);
    EXPECT_EQ(error_of(op, 0, block / 2), EINVAL);
    EXPECT_EQ(error_of(op, geometry.size, block), EINVAL);
    EXPECT_EQ(error_of(op, geometry.size - block, 2 * block), EINVAL);
    EXPECT_EQ(error_of(op, ~std::uint64_t{0} - block + 1, block), EINVAL);
    EXPECT_EQ(error_of(op, geometry.size - block, block), 0);
    if (geometry.memory_alignment > 1) {
      EXPECT_EQ(error_of(op, 0, block, geometry.memory_alignment / 2), EINVAL);
    }
    const iovec buffer{data.data(), block};
    EXPECT_EQ(submit_and_wait(
                  *store, {.op = op, .length = 2 * block, .buffers = &buffer, .buffer_count = 1}),
              EINVAL);
  }
  for (const auto op : {IoOp::discard, IoOp::zero, IoOp::allocate}) {
    EXPECT_EQ(error_of(op, geometry.size, block), EINVAL);
    EXPECT_EQ(error_of(op, 1, block), EINVAL);
    EXPECT_EQ(error_of(op, 0, 0), 0);
  }
}

TEST_P(FileStoreTest, DiscardReadsAsZerosAndLowersUsage) {
  auto store = open();
  auto channel = SyncChannel::open(*store).value();
  auto data = pattern(4 * mib, 9);
  ASSERT_TRUE(channel->write(0, data.span()));
  ASSERT_TRUE(channel->flush());
  const auto before = store->allocated_bytes().value();
  ASSERT_GE(before, 4 * mib);
  ASSERT_TRUE(store->geometry().can_discard);
  ASSERT_TRUE(channel->discard(mib, 2 * mib));
  EXPECT_LE(store->allocated_bytes().value(), before - 2 * mib + 64 * 1024);
  EXPECT_EQ(store->geometry().size, 4 * mib);
  AlignedBuffer back(4 * mib);
  ASSERT_TRUE(channel->read(0, back.span()));
  EXPECT_EQ(std::memcmp(back.data(), data.data(), mib), 0);
  EXPECT_TRUE(all_zero(back.span().subspan(mib, 2 * mib)));
  EXPECT_EQ(std::memcmp(back.data() + 3 * mib, data.data() + 3 * mib, mib), 0);
}

TEST_P(FileStoreTest, ZeroKeepsTheSpaceAndAllocateTakesIt) {
  auto store = open();
  auto channel = SyncChannel::open(*store).value();
  EXPECT_EQ(submit_and_wait(*store, {.op = IoOp::allocate, .offset = 0, .length = 2 * mib}), 0);
  EXPECT_GE(store->allocated_bytes().value(), 2 * mib);
  EXPECT_EQ(store->geometry().size, 4 * mib);
  auto data = pattern(mib, 3);
  ASSERT_TRUE(channel->write(0, data.span()));
  EXPECT_EQ(
      submit_and_wait(
          *store, {.op = IoOp::zero, .force_unit_access = true, .offset = 4096, .length = 8192}),
      0);
  EXPECT_GE(store->allocated_bytes().value(), 2 * mib);
  AlignedBuffer back(mib);
  ASSERT_TRUE(channel->read(0, back.span()));
  EXPECT_EQ(std::memcmp(back.data(), data.data(), 4096), 0);
  EXPECT_TRUE(all_zero(back.span().subspan(4096, 8192)));
  EXPECT_EQ(std::memcmp(back.data() + 12288, data.data() + 12288, mib - 12288), 0);
}

// As on a file system or device that has no better means.
TEST_P(FileStoreTest, WritesZerosWhereItCannotPunch) {
  auto data = pattern(4 * mib, 9);
  {
    auto store = open();
    ASSERT_TRUE(SyncChannel::open(*store).value()->write(0, data.span()));
  }
  FileTarget target;
  target.fd.reset(::open(path_.c_str(), O_RDWR | O_CLOEXEC | (direct() ? O_DIRECT : 0)));
  ASSERT_TRUE(target.fd);
  target.direct = direct();
  target.size = 4 * mib;
  target.can_punch = false;
  target.can_zero_range = false;
  auto loop = EventLoop::create({}).value();
  FileChannel channel(*loop, target);
  for (const auto op : {IoOp::discard, IoOp::zero}) {
    struct Noted : IoRequest {
      int error = -1;
    } request;
    request.op = op;
    request.offset = op == IoOp::discard ? 4096 : 2 * mib;
    request.length = mib + 4096;  // several pieces, the last one short
    request.complete = [](IoRequest& self, int error) { static_cast<Noted&>(self).error = error; };
    channel.submit(request);
    while (request.error < 0) ASSERT_TRUE(loop->poll(true));
    EXPECT_EQ(request.error, 0);
    std::memset(data.data() + request.offset, 0, static_cast<std::size_t>(request.length));
  }
  AlignedBuffer back(4 * mib);
  ASSERT_TRUE(SyncChannel::open(*open()).value()->read(0, back.span()));
  EXPECT_EQ(std::memcmp(back.data(), data.data(), data.size()), 0);
}

TEST(FileStoreOpen, ZeroesOnTmpfsWhichRefusesToZeroARange) {
  struct statfs info {};
  if (::statfs("/dev/shm", &info) != 0 || info.f_type != TMPFS_MAGIC) {
    GTEST_SKIP() << "/dev/shm is no tmpfs";
  }
  std::string path = "/dev/shm/file-store-XXXXXX";
  const UniqueFd fd(::mkstemp(path.data()));
  ASSERT_TRUE(fd);
  ASSERT_EQ(::ftruncate(fd.get(), mib), 0);
  auto store = FileStore::open(path, {}).value();
  std::filesystem::remove(path);
  auto channel = SyncChannel::open(*store).value();
  auto data = pattern(mib, 4);
  ASSERT_TRUE(channel->write(0, data.span()));
  ASSERT_TRUE(channel->zero(8192, 16384));
  std::memset(data.data() + 8192, 0, 16384);
  AlignedBuffer back(mib);
  ASSERT_TRUE(channel->read(0, back.span()));
  EXPECT_EQ(std::memcmp(back.data(), data.data(), mib), 0);
}

TEST_P(FileStoreTest, LocatesDataAndHoles) {
  auto store = open();
  auto channel = SyncChannel::open(*store).value();
  auto data = pattern(64 * 1024, 1);
  ASSERT_TRUE(channel->write(mib, data.span()));
  ASSERT_TRUE(channel->flush());
  std::vector<Range> ranges;
  ASSERT_TRUE(store->locate(0, 4 * mib, [&](const Range& range) {
    ranges.push_back(range);
    return true;
  }));
  std::uint64_t at = 0, data_bytes = 0;
  for (const auto& range : ranges) {
    EXPECT_EQ(range.offset, at);
    at += range.length;
    if (range.kind == RangeKind::data) {
      data_bytes += range.length;
      EXPECT_EQ(range.leaf_offset, range.offset);
      EXPECT_GE(range.offset, mib - 64 * 1024);
    }
  }
  EXPECT_EQ(at, 4 * mib);
  EXPECT_GE(data_bytes, 64U * 1024);
  EXPECT_LE(data_bytes, 256U * 1024);

  int calls = 0;
  ASSERT_TRUE(store->locate(0, 4 * mib, [&](const Range&) { return ++calls < 1; }));
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(store->locate(0, 5 * mib, [](const Range&) { return true; }).error().kind,
            ErrorKind::invalid_argument);
}

TEST_P(FileStoreTest, SecondOwnerIsRefusedByName) {
  auto store = open();
  const auto second = FileStore::open(path_, {});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().kind, ErrorKind::busy);
  EXPECT_NE(second.error().message.find(path_.string()), std::string::npos);
  EXPECT_NE(second.error().message.find("in use by another process"), std::string::npos);
  EXPECT_FALSE(FileStore::open(path_, {.read_only = true}));
  EXPECT_TRUE(FileStore::open(path_, {.lock = false}));
  store.reset();
  EXPECT_TRUE(FileStore::open(path_, {}));
}

TEST_P(FileStoreTest, ReadersShareAndKeepWritersOut) {
  auto one = open({.read_only = true});
  auto two = open({.read_only = true});
  EXPECT_EQ(FileStore::open(path_, {}).error().kind, ErrorKind::busy);
  EXPECT_TRUE(one->geometry().read_only);
  EXPECT_FALSE(one->geometry().can_discard);
  auto channel = SyncChannel::open(*two).value();
  AlignedBuffer data(4096);
  EXPECT_TRUE(channel->read(0, data.span()));
  EXPECT_EQ(channel->write(0, data.span()).error().errno_value, EROFS);
  EXPECT_EQ(channel->discard(0, 4096).error().errno_value, EROFS);
  EXPECT_TRUE(channel->flush());
  EXPECT_FALSE(one->set_size(mib));
}

TEST_P(FileStoreTest, ReadsZerosBeyondTheRealEnd) {
  {
    std::ofstream file(path_, std::ios::binary | std::ios::trunc);
    file << std::string(700, 'x');
  }
  auto store = open();
  const auto size = store->geometry().size;
  ASSERT_EQ(size % store->geometry().logical_block, 0U);
  ASSERT_GE(size, 1024U);
  AlignedBuffer back(static_cast<std::size_t>(size));
  std::memset(back.data(), 0xee, back.size());
  ASSERT_TRUE(SyncChannel::open(*store).value()->read(0, back.span()));
  EXPECT_EQ(std::to_integer<char>(back.span()[699]), 'x');
  EXPECT_TRUE(all_zero(back.span().subspan(700)));

  // Cut by someone else: still zeros, not an error.
  ASSERT_EQ(::truncate(path_.c_str(), 0), 0);
  std::memset(back.data(), 0xee, back.size());
  ASSERT_TRUE(SyncChannel::open(*store).value()->read(0, back.span()));
  EXPECT_TRUE(all_zero(back.span()));
}

TEST_P(FileStoreTest, Resizes) {
  auto store = open();
  auto channel = SyncChannel::open(*store).value();
  AlignedBuffer data(4096);
  EXPECT_FALSE(channel->read(4 * mib, data.span()));
  ASSERT_TRUE(store->set_size(8 * mib));
  EXPECT_EQ(store->geometry().size, 8 * mib);
  EXPECT_TRUE(channel->read(4 * mib, data.span()));
  EXPECT_FALSE(store->set_size(8 * mib + 1));
}

TEST_P(FileStoreTest, EachThreadHasItsChannel) {
  auto store = open();
  std::vector<std::thread> threads;
  for (unsigned number = 0; number < 4; ++number) {
    threads.emplace_back([&, number] {
      auto channel = SyncChannel::open(*store).value();
      auto data = pattern(4096, number);
      AlignedBuffer back(4096);
      for (unsigned i = 0; i < 64; ++i) {
        const std::uint64_t offset = (i * 4 + number) * 4096;
        EXPECT_TRUE(channel->write(offset, data.span()));
        EXPECT_TRUE(channel->read(offset, back.span()));
        EXPECT_EQ(std::memcmp(data.data(), back.data(), 4096), 0);
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

TEST(FileStoreOpen, RefusesWhatIsNoDisk) {
  const auto missing = FileStore::open("/nonexistent/disk", {});
  EXPECT_EQ(missing.error().kind, ErrorKind::not_found);
  EXPECT_NE(missing.error().message.find("/nonexistent/disk"), std::string::npos);
  EXPECT_EQ(FileStore::open("/dev/null", {}).error().kind, ErrorKind::invalid_argument);
  EXPECT_EQ(FileStore::open("/tmp", {}).error().kind, ErrorKind::invalid_argument);
}

TEST(SyncChannel, ServesThreadsOneAfterAnother) {
  std::string path = (std::filesystem::temp_directory_path() / "sync-channel-XXXXXX").string();
  const UniqueFd fd(::mkstemp(path.data()));
  ASSERT_EQ(::ftruncate(fd.get(), mib), 0);
  auto store = FileStore::open(path, {}).value();
  std::filesystem::remove(path);
  auto channel = SyncChannel::open(*store).value();
  for (unsigned i = 0; i < 8; ++i) {
    std::thread([&] {
      auto data = pattern(4096, i);
      EXPECT_TRUE(channel->write(i * 4096, data.span()));
      EXPECT_TRUE(channel->flush());
    }).join();
  }
  AlignedBuffer back(8 * 4096);
  ASSERT_TRUE(channel->read(0, back.span()));
  for (unsigned i = 0; i < 8; ++i) {
    EXPECT_EQ(std::memcmp(back.data() + i * 4096, pattern(4096, i).data(), 4096), 0);
  }
}

TEST(SyncChannel, ErrorsNameTheStoreAndThePlace) {
  std::string path = (std::filesystem::temp_directory_path() / "sync-channel-XXXXXX").string();
  const UniqueFd fd(::mkstemp(path.data()));
  ASSERT_EQ(::ftruncate(fd.get(), mib), 0);
  auto store = FileStore::open(path, {}).value();
  std::filesystem::remove(path);
  AlignedBuffer data(4096);
  const auto result = SyncChannel::open(*store).value()->read(mib, data.span());
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().message.find(path), std::string::npos);
  EXPECT_NE(result.error().message.find("1048576+4096"), std::string::npos);
}

TEST(AlignedBuffer, IsAlignedAndZeroed) {
  AlignedBuffer buffer(5000);
  EXPECT_EQ(buffer.size(), 5000U);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 4096, 0U);
  EXPECT_TRUE(all_zero(buffer.span()));
}

}  // namespace
}  // namespace tidepool::blockdev
