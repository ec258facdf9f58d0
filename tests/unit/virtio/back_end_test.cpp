// The back end before a front end that changes its mind while the device works. The front end's
// messages go over a real socket; the driver is written by hand, in a memory file.
#include "virtio/vhost_user/back_end.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "base/unix_address.h"
#include "virtio/entropy_device.h"
#include "virtio/vhost_user/front_end.h"

namespace tidepool::virtio::vhost_user {
namespace {

using namespace std::chrono_literals;

UniqueFd eventfd() { return UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }
bool is_signalled(const UniqueFd& fd, int milliseconds) {
  pollfd entry{.fd = fd.get(), .events = POLLIN, .revents = 0};
  return ::poll(&entry, 1, milliseconds) == 1;
}

// A driver that asks an entropy device for bytes.
class BackEndTest : public testing::Test {
 protected:
  static constexpr std::uint64_t memory_bytes = 1 << 16;
  static constexpr std::uint16_t entries = 4;
  static constexpr std::uint64_t descriptors = 0x1000, available = 0x2000, used = 0x3000;

  BackEndTest() {
    EXPECT_EQ(::ftruncate(file_.get(), memory_bytes), 0);
    host_ = static_cast<std::byte*>(
        ::mmap(nullptr, memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0));
    char name[] = "/tmp/back-end-test.XXXXXX";
    directory_ = ::mkdtemp(name);
  }
  ~BackEndTest() override {
    front_.reset();
    if (thread_.joinable()) thread_.join();
    ::munmap(host_, memory_bytes);
    std::filesystem::remove_all(directory_);
  }

  void begin(BackEndOptions options) {
    const std::string path = directory_ + "/socket";
    const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_un address = *unix_address(path);
    ASSERT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
              0);
    ASSERT_EQ(::listen(listener.get(), 1), 0);
    thread_ = std::thread([this, &listener, options] {
      BackEnd back_end(*device_, UniqueFd(::accept(listener.get(), nullptr, nullptr)), options);
      EXPECT_TRUE(back_end.serve());
    });
    // Answers a first question: the connection was accepted, the listener may go.
    auto front = FrontEnd::connect(path, protocol_answers, 60s);
    ASSERT_TRUE(front) << front.error().message;
    front_ = std::move(*front);
    const auto here = reinterpret_cast<std::uint64_t>(host_);
    const MemoryRegion region{0, memory_bytes, here, 0};
    const int file = file_.get(), kick = kick_.get();
    ASSERT_TRUE(front_->set(Request::set_features, feature_version_1 | feature_protocol));
    ASSERT_TRUE(
        front_->set(Request::set_memory_table, encode_memory_table({&region, 1}), {&file, 1}));
    ASSERT_TRUE(front_->set_vring(Request::set_vring_size, 0, entries));
    ASSERT_TRUE(front_->set_vring(Request::set_vring_base, 0, 0));
    ASSERT_TRUE(front_->set(
        Request::set_vring_addresses,
        encode_vring_addresses({0, here + descriptors, here + used, here + available})));
    ASSERT_TRUE(front_->set(Request::set_vring_kick, 0, {&kick, 1}));
    ASSERT_TRUE(front_->set_vring(Request::set_vring_enable, 0, 1));
  }
  void tell_calls_to(const UniqueFd& call) {
    const int descriptor = call.get();
    ASSERT_TRUE(front_->set(Request::set_vring_call, 0, {&descriptor, 1}));
  }

  std::atomic_ref<std::uint16_t> index(std::uint64_t ring) {
    return std::atomic_ref(*reinterpret_cast<std::uint16_t*>(host_ + ring + 2));
  }
  void ask() {
    constexpr std::uint64_t address = 0x4000;
    constexpr std::uint32_t length = 64;
    constexpr std::uint16_t writable = 2;
    std::memcpy(host_ + descriptors, &address, sizeof address);
    std::memcpy(host_ + descriptors + 8, &length, sizeof length);
    std::memcpy(host_ + descriptors + 12, &writable, sizeof writable);
    index(available).fetch_add(1);  // always of entry 0
    const std::uint64_t one = 1;
    ASSERT_EQ(::write(kick_.get(), &one, sizeof one), 8);
  }
  void wait_for(std::uint16_t answers) {
    for (int i = 0; i < 20'000 && index(used).load() != answers; ++i) {
      std::this_thread::sleep_for(1ms);
    }
    ASSERT_EQ(index(used).load(), answers);
  }

  const UniqueFd file_{::memfd_create("guest", MFD_CLOEXEC)}, kick_ = eventfd();
  std::byte* host_ = nullptr;
  std::string directory_;
  const std::unique_ptr<EntropyDevice> device_ = *EntropyDevice::create();
  std::thread thread_;
  std::unique_ptr<FrontEnd> front_;
};

// QEMU gives a queue another call descriptor each time the guest masks or unmasks its interrupt,
// and looks no more at the one before. What that one was told just then is told again.
TEST_F(BackEndTest, TellsANewCallDescriptorWhatTheOldOneWasTold) {
  begin({});
  const UniqueFd first = eventfd(), second = eventfd();
  tell_calls_to(first);
  ask();
  wait_for(1);
  tell_calls_to(second);
  EXPECT_TRUE(is_signalled(second, 20'000));
}

TEST_F(BackEndTest, ADriverWaitsForEverWithoutThat) {
  begin({.silent_new_calls = true});
  const UniqueFd first = eventfd(), second = eventfd();
  tell_calls_to(first);
  ask();
  wait_for(1);
  tell_calls_to(second);
  EXPECT_FALSE(is_signalled(second, 500));
  EXPECT_TRUE(is_signalled(first, 0));  // where nobody looks any more
}

TEST_F(BackEndTest, GoesOnWithANewCallDescriptorAtEachRequest) {
  begin({});
  for (std::uint16_t i = 1; i <= 1000; ++i) {
    const UniqueFd call = eventfd();
    ask();
    tell_calls_to(call);
    wait_for(i);
    ASSERT_TRUE(is_signalled(call, 20'000)) << i;
  }
}

}  // namespace
}  // namespace tidepool::virtio::vhost_user
