// The block device on a file, driven through its queue; the judge is the file itself.
#include "virtio/block_device.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/virtio_blk.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <random>

#include "base/byte_order.h"
#include "blockdev/stores/file_store.h"
#include "tests/lib/fault_store.h"
#include "tests/lib/null_store.h"
#include "tests/lib/queue_driver.h"

namespace tidepool::virtio {
namespace {

using test::FaultStore;
using test::QueueDriver;
using test::TestMemory;

constexpr std::uint64_t disk_bytes = 1 << 20;

struct EventInterrupt : Interrupt {
  UniqueFd fd{::eventfd(0, EFD_CLOEXEC)};
  void signal() override {
    const std::uint64_t one = 1;
    EXPECT_EQ(::write(fd.get(), &one, sizeof one), 8);
  }
  bool wait(int milliseconds = 20'000) {
    pollfd entry{.fd = fd.get(), .events = POLLIN, .revents = 0};
    if (::poll(&entry, 1, milliseconds) <= 0) return false;
    std::uint64_t count = 0;
    EXPECT_EQ(::read(fd.get(), &count, sizeof count), 8);
    return true;
  }
};

// A driver with one queue of a device on a file.
class BlockDeviceTest : public testing::TestWithParam<bool> {
 protected:
  BlockDeviceTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "virtio-block-XXXXXX").string();
    UniqueFd fd(::mkstemp(pattern.data()));
    path_ = pattern;
    EXPECT_EQ(::ftruncate(fd.get(), disk_bytes), 0);
    open();
  }
  ~BlockDeviceTest() override {
    if (device_) device_->reset();
    device_.reset();
    std::filesystem::remove(path_);
  }

  void open(bool read_only = false, std::uint64_t features = ~std::uint64_t{0}) {
    if (device_) device_->reset();
    device_.reset();
    faults_.reset();
    auto store = blockdev::FileStore::open(path_, {.read_only = read_only});
    ASSERT_TRUE(store) << store.error().message;
    faults_ = std::make_shared<FaultStore>(*store);
    device_ = *BlockDevice::create(faults_, {.serial = "tide-0001"});
    device_->connect(memory_.map());
    driver_.emplace(memory_, 64, GetParam());
    features &= device_->features();
    if (!GetParam()) features &= ~feature_event_index;
    QueueStart queue{driver_->layout(), {}, kick_.get(), &interrupt_};
    auto started = device_->start({features, {queue}, [this](const std::string& why) {
                                     const std::lock_guard lock(mutex_);
                                     broken_ = why;
                                     changed_.notify_all();
                                   }});
    ASSERT_TRUE(started) << started.error().message;
  }

  struct Asked {
    std::uint64_t status;  // guest address
    std::uint16_t head;
  };
  Asked ask(std::uint32_t type, std::uint64_t sector, std::vector<QueueDriver::Piece> data,
            bool indirect = false) {
    const std::uint64_t header = memory_.take(16), status = memory_.take(1);
    memory_.put<std::uint32_t>(header, type);
    memory_.put<std::uint64_t>(header + 8, sector);
    memory_.put<std::uint8_t>(status, 0xee);
    data.insert(data.begin(), {header, 16, false});
    data.push_back({status, 1, true});
    const std::uint16_t head = driver_->add(data, indirect);
    if (driver_->must_kick()) {
      const std::uint64_t one = 1;
      EXPECT_EQ(::write(kick_.get(), &one, sizeof one), 8);
    }
    driver_->kicked();
    return {status, head};
  }
  QueueDriver::Used wait_used() {
    for (;;) {
      if (auto used = driver_->poll()) return *used;
      if (!interrupt_.wait()) {
        if (auto used = driver_->poll()) {
          ADD_FAILURE() << "a lost interrupt";
          return *used;
        }
        ADD_FAILURE() << "no answer";
        return {};
      }
    }
  }
  unsigned run(std::uint32_t type, std::uint64_t sector, std::vector<QueueDriver::Piece> data,
               bool indirect = false) {
    const Asked asked = ask(type, sector, std::move(data), indirect);
    EXPECT_EQ(wait_used().id, asked.head);
    return memory_.get<std::uint8_t>(asked.status);
  }
  unsigned run_ranges(std::uint32_t type, const std::vector<std::array<std::uint64_t, 3>>& ranges) {
    const std::uint64_t at = memory_.take(16 * ranges.size() + 1);
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      memory_.put<std::uint64_t>(at + 16 * i, ranges[i][0]);
      memory_.put<std::uint32_t>(at + 16 * i + 8, static_cast<std::uint32_t>(ranges[i][1]));
      memory_.put<std::uint32_t>(at + 16 * i + 12, static_cast<std::uint32_t>(ranges[i][2]));
    }
    return run(type, 0, {{at, static_cast<std::uint32_t>(16 * ranges.size()), false}});
  }
  std::string broken() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(20), [&] { return !broken_.empty(); });
    return broken_;
  }
  std::vector<std::byte> file() {
    std::vector<std::byte> bytes(disk_bytes);
    UniqueFd fd(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
    EXPECT_EQ(::pread(fd.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    return bytes;
  }

  TestMemory memory_{32 << 20};
  EventInterrupt interrupt_;
  UniqueFd kick_{::eventfd(0, EFD_CLOEXEC)};
  std::filesystem::path path_;
  std::shared_ptr<FaultStore> faults_;
  std::unique_ptr<BlockDevice> device_;
  std::optional<QueueDriver> driver_;
  std::mutex mutex_;  // guards broken_
  std::condition_variable changed_;
  std::string broken_;
};

INSTANTIATE_TEST_SUITE_P(, BlockDeviceTest, testing::Values(false, true),
                         [](const auto& info) { return info.param ? "EventIndex" : "Flags"; });

TEST_P(BlockDeviceTest, LeavesWhatAFlatCopyHolds) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  std::vector<std::byte> model(disk_bytes);
  const std::uint64_t buffer = memory_.take(128 * 1024, 4096);
  for (int step = 0; step < 1500; ++step) {
    const std::uint64_t sectors = 1 + random() % 64;
    const std::uint64_t sector = random() % (disk_bytes / 512 - sectors);
    const auto from = model.begin() + static_cast<std::ptrdiff_t>(sector * 512);
    // Pieces of any address and length: most need a buffer of the device's own.
    std::uint64_t at = buffer + (random() % 2 == 0 ? 0 : random() % 1000);
    const std::uint64_t start = at;
    std::vector<QueueDriver::Piece> pieces;
    std::uint64_t left = sectors * 512;
    const bool writing = random() % 2 == 0;
    while (left > 0) {
      const std::uint64_t length =
          pieces.size() == 10 ? left : std::min<std::uint64_t>(left, 1 + random() % 8192);
      pieces.push_back({at, static_cast<std::uint32_t>(length), !writing});
      at += length;
      left -= length;
    }
    const bool indirect = random() % 2 == 0;
    switch (random() % 5) {
      case 0: {
        const bool discard = random() % 2 == 0;
        ASSERT_EQ(run_ranges(discard ? VIRTIO_BLK_T_DISCARD : VIRTIO_BLK_T_WRITE_ZEROES,
                             {{sector, sectors, discard ? 0 : random() % 2}, {0, 1, 0}}),
                  0U);
        std::fill_n(from, sectors * 512, std::byte{});
        std::fill_n(model.begin(), 512, std::byte{});
        break;
      }
      case 1:
        ASSERT_EQ(run(VIRTIO_BLK_T_FLUSH, 0, {}), 0U);
        break;
      default:
        if (writing) {
          for (std::uint64_t i = 0; i < sectors * 512; ++i) {
            const auto byte = static_cast<std::byte>(random());
            *memory_.at(start + i) = byte;
            from[static_cast<std::ptrdiff_t>(i)] = byte;
          }
          ASSERT_EQ(run(VIRTIO_BLK_T_OUT, sector, pieces, indirect), 0U);
        } else {
          ASSERT_EQ(run(VIRTIO_BLK_T_IN, sector, pieces, indirect), 0U);
          ASSERT_EQ(std::memcmp(memory_.at(start), &*from, sectors * 512), 0);
        }
    }
  }
  EXPECT_TRUE(file() == model);
}

TEST_P(BlockDeviceTest, KeepsManyUnderWay) {
  const std::uint64_t buffer = memory_.take(64 * 4096, 4096);
  std::memset(memory_.at(buffer), 7, 64 * 4096);
  for (int round = 0; round < 50; ++round) {
    std::map<std::uint32_t, std::uint64_t> waiting;
    for (std::uint64_t i = 0; i < 16; ++i) {
      const Asked asked = ask(VIRTIO_BLK_T_OUT, i * 8, {{buffer + i * 4096, 4096, false}}, true);
      waiting[asked.head] = asked.status;
    }
    while (!waiting.empty()) {
      const auto used = wait_used();
      ASSERT_TRUE(waiting.contains(used.id));
      EXPECT_EQ(memory_.get<std::uint8_t>(waiting[used.id]), 0);
      waiting.erase(used.id);
    }
  }
}

TEST_P(BlockDeviceTest, AnswersWhatItIsAndWhatItCannot) {
  const std::uint64_t data = memory_.take(4096, 4096);
  ASSERT_EQ(run(VIRTIO_BLK_T_GET_ID, 0, {{data, 20, true}}), 0U);
  EXPECT_STREQ(reinterpret_cast<char*>(memory_.at(data)), "tide-0001");
  EXPECT_EQ(run(99, 0, {}), unsigned{VIRTIO_BLK_S_UNSUPP});
  EXPECT_EQ(run(VIRTIO_BLK_T_IN, disk_bytes / 512, {{data, 512, true}}),
            unsigned{VIRTIO_BLK_S_IOERR});
  EXPECT_EQ(run(VIRTIO_BLK_T_IN, UINT64_MAX, {{data, 512, true}}), unsigned{VIRTIO_BLK_S_IOERR});
  EXPECT_EQ(run(VIRTIO_BLK_T_IN, 0, {{data, 100, true}}), unsigned{VIRTIO_BLK_S_IOERR});
  EXPECT_EQ(run_ranges(VIRTIO_BLK_T_DISCARD, {{0, 8, 2}}), unsigned{VIRTIO_BLK_S_UNSUPP});
  EXPECT_EQ(run_ranges(VIRTIO_BLK_T_DISCARD, {{0, 8, 1}}), unsigned{VIRTIO_BLK_S_UNSUPP});
  EXPECT_EQ(run_ranges(VIRTIO_BLK_T_DISCARD, {}), unsigned{VIRTIO_BLK_S_IOERR});
  EXPECT_EQ(run_ranges(VIRTIO_BLK_T_DISCARD, {{disk_bytes / 512 - 1, 2, 0}}),
            unsigned{VIRTIO_BLK_S_IOERR});
  EXPECT_EQ(run_ranges(VIRTIO_BLK_T_DISCARD, std::vector<std::array<std::uint64_t, 3>>(17)),
            unsigned{VIRTIO_BLK_S_IOERR});
  EXPECT_EQ(run(VIRTIO_BLK_T_FLUSH, 0, {}), 0U);  // it still works
}

TEST_P(BlockDeviceTest, PassesErrorsOn) {
  const std::uint64_t data = memory_.take(4096, 4096);
  faults_->fail({.op = blockdev::IoOp::write}, EIO);
  EXPECT_EQ(run(VIRTIO_BLK_T_OUT, 0, {{data, 512, false}}), unsigned{VIRTIO_BLK_S_IOERR});
  EXPECT_EQ(run(VIRTIO_BLK_T_OUT, 0, {{data, 512, false}}), 0U);
  open(true);
  EXPECT_NE(device_->features() & (1ULL << VIRTIO_BLK_F_RO), 0U);
  EXPECT_EQ(run(VIRTIO_BLK_T_OUT, 0, {{data, 512, false}}), unsigned{VIRTIO_BLK_S_IOERR});
  EXPECT_EQ(run(VIRTIO_BLK_T_IN, 0, {{data, 512, true}}), 0U);
}

// What is under way when the device is made quiet is given back; what comes then waits.
TEST_P(BlockDeviceTest, QuietMeansQuiet) {
  const std::uint64_t data = memory_.take(4096, 4096);
  faults_->hold({.op = blockdev::IoOp::write}, FaultStore::HoldAt::completion);
  const Asked first = ask(VIRTIO_BLK_T_OUT, 0, {{data, 512, false}});
  faults_->wait_for_held(1);
  std::thread releaser([&] { faults_->release_all(); });
  device_->quiesce();
  releaser.join();
  auto used = driver_->poll();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->id, first.head);
  const QueuePosition position = device_->positions()[0];
  EXPECT_EQ(position.next_available, position.next_used);
  const Asked second = ask(VIRTIO_BLK_T_IN, 0, {{data, 512, true}});
  std::uint64_t one = 1;
  EXPECT_EQ(::write(kick_.get(), &one, sizeof one), 8);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(driver_->poll());
  device_->resume();
  EXPECT_EQ(wait_used().id, second.head);
}

TEST_P(BlockDeviceTest, ALieBreaksItAndAResetMendsIt) {
  const std::uint64_t data = memory_.take(4096, 4096);
  driver_->add({{data, 8, false}, {data, 1, true}}, false);  // half a header
  std::uint64_t one = 1;
  EXPECT_EQ(::write(kick_.get(), &one, sizeof one), 8);
  EXPECT_FALSE(broken().empty());
  open();
  EXPECT_EQ(run(VIRTIO_BLK_T_IN, 0, {{data, 512, true}}), 0U);
}

// Linux leaves a disk alone whose block is smaller than a sector or larger than a page: a
// chain, which is read and written in single bytes, must not say so.
TEST(BlockDeviceGeometry, ItsBlockIsOneThatDriversTake) {
  struct BlockedStore : test::NullStore {
    std::uint32_t block;
    explicit BlockedStore(std::uint32_t bytes) : NullStore(disk_bytes), block(bytes) {}
    blockdev::Geometry geometry() const override {
      blockdev::Geometry geometry = NullStore::geometry();
      geometry.logical_block = block;
      return geometry;
    }
  };
  struct Case {
    std::uint32_t store, shown;
  };
  for (const Case& c : {Case{1, 512}, Case{64, 512}, Case{512, 512}, Case{4096, 4096}}) {
    SCOPED_TRACE(c.store);
    const auto device = BlockDevice::create(std::make_shared<BlockedStore>(c.store), {});
    ASSERT_TRUE(device);
    std::array<std::byte, sizeof(virtio_blk_config)> config;
    (*device)->read_config(0, config);
    EXPECT_EQ(load_le32(&config[offsetof(virtio_blk_config, blk_size)]), c.shown);
    EXPECT_EQ(load_le32(&config[offsetof(virtio_blk_config, discard_sector_alignment)]),
              c.shown / 512);
    EXPECT_EQ(load_le64(&config[offsetof(virtio_blk_config, capacity)]), disk_bytes / 512);
  }
  const auto refused = BlockDevice::create(std::make_shared<BlockedStore>(8192), {});
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("blocks of 8192 bytes"), std::string::npos);
}

// A driver that does not flush gets every write stable.
TEST_P(BlockDeviceTest, WritesThroughWithoutFlush) {
  struct Watch : blockdev::BlockStore {
    std::shared_ptr<blockdev::BlockStore> below;
    std::atomic<int> stable{0}, unstable{0};
    const std::string& name() const override { return below->name(); }
    blockdev::Geometry geometry() const override { return below->geometry(); }
    Result<> locate(std::uint64_t, std::uint64_t,
                    const std::function<bool(const blockdev::Range&)>&) override {
      return {};
    }
    Result<std::unique_ptr<blockdev::IoChannel>> open_channel(EventLoop& loop) override {
      struct Channel : blockdev::IoChannel {
        Watch* watch;
        std::unique_ptr<blockdev::IoChannel> below;
        void submit(blockdev::IoRequest& request) override {
          if (request.op == blockdev::IoOp::write)
            ++(request.force_unit_access ? watch->stable : watch->unstable);
          below->submit(request);
        }
      };
      auto channel = std::make_unique<Channel>();
      channel->watch = this;
      channel->below = *below->open_channel(loop);
      return channel;
    }
  };
  const std::uint64_t data = memory_.take(4096, 4096);
  for (const bool flushes : {false, true}) {
    if (device_) device_->reset();
    auto watch = std::make_shared<Watch>();
    watch->below = faults_;
    device_ = *BlockDevice::create(watch, {});
    device_->connect(memory_.map());
    driver_.emplace(memory_, 64, GetParam());
    std::uint64_t features = device_->features();
    if (!GetParam()) features &= ~feature_event_index;
    if (!flushes) features &= ~(1ULL << VIRTIO_BLK_F_FLUSH);
    ASSERT_TRUE(device_->start(
        {features, {QueueStart{driver_->layout(), {}, kick_.get(), &interrupt_}}, {}}));
    EXPECT_EQ(run(VIRTIO_BLK_T_OUT, 0, {{data, 512, false}}), 0U);
    EXPECT_EQ(watch->stable, flushes ? 0 : 1);
    EXPECT_EQ(watch->unstable, flushes ? 1 : 0);
    device_->reset();
    device_.reset();
  }
}

}  // namespace
}  // namespace tidepool::virtio
