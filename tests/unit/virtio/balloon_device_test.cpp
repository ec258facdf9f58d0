// A balloon, driven through its queues. The judge is the memory file: its content, and what
// the kernel says it takes.
#include "virtio/balloon_device.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <set>
#include <thread>

#include "base/unique_fd.h"
#include "tests/lib/queue_driver.h"

namespace tidepool::virtio {
namespace {

using test::QueueDriver;
using test::TestMemory;

struct Ignored : Interrupt {
  void signal() override {}
};

// Rings lie in plain memory, what is given away in a file or, as its twin, in memory that is
// this process's own.
class BalloonTest : public testing::TestWithParam<bool> {
 protected:
  static constexpr std::uint64_t file_address = 16 << 20, pages = 64;
  static constexpr std::uint32_t first_page = file_address / guest_page;

  void SetUp() override {
    file_.reset(::memfd_create("balloon", MFD_CLOEXEC));
    ASSERT_EQ(::ftruncate(file_.get(), pages * guest_page), 0);
    void* const mapped = ::mmap(nullptr, pages * guest_page, PROT_READ | PROT_WRITE,
                                shared() ? MAP_SHARED : MAP_PRIVATE, file_.get(), 0);
    ASSERT_NE(mapped, MAP_FAILED);
    host_ = static_cast<std::byte*>(mapped);
    std::fill_n(host_, pages * guest_page, std::byte{0xaa});
    device_ = *BalloonDevice::create();
    device_->connect(*GuestMemory::create({{TestMemory::base, 1 << 20, rings_.at(TestMemory::base)},
                                           {file_address, pages * guest_page, host_}}));
    start_again();
  }
  void start_again() {
    device_->reset();
    broken_ = false;
    drivers_.clear();
    kicks_.clear();
    DeviceStart start{.features = device_->features(), .queues = {}};
    for (unsigned i = 0; i < 3; ++i) {
      drivers_.push_back(std::make_unique<QueueDriver>(rings_, 16, true));
      kicks_.emplace_back(::eventfd(0, EFD_CLOEXEC));
      start.queues.push_back(QueueStart{drivers_[i]->layout(), {}, kicks_[i].get(), &ignored_});
    }
    start.broken = [this](const std::string&) { broken_ = true; };
    ASSERT_TRUE(device_->start(std::move(start)));
    device_->writers().front()->start_tracking();
  }
  void TearDown() override {
    device_->reset();
    device_.reset();
    ::munmap(host_, pages * guest_page);
  }

  static bool shared() { return GetParam(); }
  void run(unsigned queue, const std::vector<QueueDriver::Piece>& pieces) {
    drivers_[queue]->add(pieces, false);
    const std::uint64_t one = 1;
    ASSERT_EQ(::write(kicks_[queue].get(), &one, sizeof one), 8);
    for (int i = 0; i < 20'000; ++i) {
      if (drivers_[queue]->poll()) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    FAIL() << "no answer";
  }
  void inflate(const std::vector<std::uint32_t>& numbers, unsigned queue = 0) {
    const auto bytes = static_cast<std::uint32_t>(4 * numbers.size());
    const std::uint64_t at = rings_.take(bytes);
    for (std::size_t i = 0; i < numbers.size(); ++i) rings_.put(at + 4 * i, numbers[i]);
    run(queue, {{at, bytes, false}});
  }
  std::set<std::uint64_t> zeros() const {  // pages of the file
    std::set<std::uint64_t> found;
    for (std::uint64_t page = 0; page < pages; ++page) {
      const std::byte* const at = host_ + page * guest_page;
      if (std::all_of(at, at + guest_page, [](std::byte b) { return b == std::byte{}; }))
        found.insert(page);
    }
    return found;
  }
  std::set<std::uint64_t> marked() {
    MemoryWriter& writer = *device_->writers().front();
    std::vector<std::uint64_t> words((writer.memory().end() / guest_page + 63) / 64);
    writer.take_marks(words);
    std::set<std::uint64_t> found;
    for (std::uint64_t page = 0; page < pages; ++page) {
      const std::uint64_t number = first_page + page;
      if ((words[number / 64] >> number % 64 & 1) != 0) found.insert(page);
    }
    return found;
  }
  std::uint64_t file_pages() const {
    struct stat status {};
    ::fstat(file_.get(), &status);
    return static_cast<std::uint64_t>(status.st_blocks) * 512 / guest_page;
  }

  UniqueFd file_;
  std::byte* host_ = nullptr;
  TestMemory rings_{1 << 20};
  Ignored ignored_;
  std::vector<std::unique_ptr<QueueDriver>> drivers_;
  std::vector<UniqueFd> kicks_;
  std::atomic<bool> broken_{false};
  std::unique_ptr<BalloonDevice> device_;
};

TEST_P(BalloonTest, GivesBackThePagesThatAreNamed) {
  inflate({first_page + 3, first_page + 1, first_page + 2, first_page + 9, first_page + 2});
  const std::set<std::uint64_t> named{1, 2, 3, 9};
  EXPECT_EQ(file_pages(), shared() ? pages - named.size() : pages);  // before they are looked at
  EXPECT_EQ(zeros(), shared() ? named : std::set<std::uint64_t>{});
  EXPECT_EQ(device_->figures().released, shared() ? named.size() * guest_page : 0);
  EXPECT_EQ(marked(), named);
  inflate({first_page + 1, first_page + 3}, 1);  // deflated
  EXPECT_EQ(zeros(), shared() ? named : std::set<std::uint64_t>{});
  EXPECT_TRUE(marked().empty());
  EXPECT_FALSE(broken_);
}

TEST_P(BalloonTest, GivesBackWholePagesThatAreReported) {
  run(2, {{file_address + 100, 3 * guest_page, true},
          {file_address + 10 * guest_page, 2 * guest_page, true},
          {file_address + 20 * guest_page + 1, guest_page, true}});
  const std::set<std::uint64_t> whole{1, 2, 10, 11};
  EXPECT_EQ(zeros(), shared() ? whole : std::set<std::uint64_t>{});
  EXPECT_EQ(marked(), whole);
  EXPECT_FALSE(broken_);
}

TEST_P(BalloonTest, RefusesAPageThatIsNone) {
  for (const std::uint32_t number : {first_page + 64, first_page - 1, 0U, 0xffffffffU}) {
    start_again();
    inflate({first_page, number});
    EXPECT_TRUE(broken_) << number;
    EXPECT_TRUE(zeros().empty()) << number;
    EXPECT_TRUE(marked().empty()) << number;
  }
}

TEST_P(BalloonTest, RefusesNumbersThatAreCutOff) {
  run(0, {{rings_.take(6), 6, false}});
  EXPECT_TRUE(broken_);
}

TEST_P(BalloonTest, RefusesTooManyAtOnce) {
  const std::uint64_t at = rings_.take(32 * 1024);
  run(0, {{at, 32 * 1024, false}, {at, 32 * 1024, false}, {at, 4, false}});
  EXPECT_TRUE(broken_);
}

TEST_P(BalloonTest, KeepsWhatItWasAskedFor) {
  const auto config = [&](std::uint64_t offset) {
    std::array<std::byte, 4> value{};
    device_->read_config(offset, value);
    std::uint32_t number = 0;
    std::memcpy(&number, value.data(), sizeof number);
    return number;
  };
  ASSERT_TRUE(device_->set_target(32 * guest_page));
  EXPECT_EQ(config(0), 32U);
  const std::array<std::byte, 4> held{std::byte{5}};
  device_->write_config(4, held);
  device_->write_config(0, held);  // that is not the driver's
  EXPECT_EQ(config(0), 32U);
  EXPECT_EQ(config(4), 5U);
  EXPECT_EQ(config(8), 0U);
  const auto saved = device_->save();
  ASSERT_TRUE(device_->set_target(0));
  EXPECT_TRUE(device_->restore(saved));
  EXPECT_EQ(device_->figures().target, 32 * guest_page);
  EXPECT_EQ(device_->figures().held, 5 * guest_page);
  EXPECT_FALSE(device_->restore({}));
  EXPECT_FALSE(device_->restore(std::vector<std::byte>(8, std::byte{0xff})));
  EXPECT_FALSE(device_->set_target((1 << 20) + (pages + 1) * guest_page));
}

INSTANTIATE_TEST_SUITE_P(Memory, BalloonTest, testing::Values(true, false),
                         [](const auto& info) { return info.param ? "shared" : "own"; });

}  // namespace
}  // namespace tidepool::virtio
