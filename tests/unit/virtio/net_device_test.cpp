// The network device between a driver's queues and a socket that stands for the tap.
#include "virtio/net_device.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <atomic>
#include <random>
#include <thread>

#include "tests/lib/queue_driver.h"
#include "virtio/net_features.h"

namespace tidepool::virtio {
namespace {

using test::CountingInterrupt;
using test::kick;
using test::QueueDriver;
using test::TestMemory;
using test::wait_used;

class SocketPort final : public PacketPort {
 public:
  SocketPort(UniqueFd socket, PacketOffloads& offloads)
      : socket_(std::move(socket)), offloads_(offloads) {}
  const std::string& name() const override { return name_; }
  int descriptor() const override { return socket_.get(); }
  Result<> set_offloads(const PacketOffloads& offloads) override {
    offloads_ = offloads;
    return {};
  }

 private:
  const std::string name_ = "socket";
  const UniqueFd socket_;
  PacketOffloads& offloads_;
};

using Bytes = std::vector<std::byte>;

class NetDeviceTest : public testing::Test {
 protected:
  static constexpr std::uint16_t entries = 16;

  NetDeviceTest() {
    int pair[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    wire_.reset(pair[0]);
    device_ = *NetDevice::create(std::make_unique<SocketPort>(UniqueFd(pair[1]), offloads_),
                                 *parse_mac("52:54:00:12:34:56"));
    device_->connect(memory_.map());
  }
  ~NetDeviceTest() override { device_->reset(); }

  Result<> start(std::uint64_t features) {
    return device_->start({features,
                           {QueueStart{receive_.layout(), {}, receive_kick_.get(), &interrupt_},
                            QueueStart{transmit_.layout(), {}, transmit_kick_.get(), &interrupt_}},
                           [this](const std::string&) { broken_ = true; }});
  }
  // A real driver kicks only when it is asked to.
  void offer(std::uint64_t at, std::uint32_t length) {
    receive_.add({{at, length, true}}, false);
    if (receive_.must_kick()) kick(receive_kick_);
    receive_.kicked();
  }
  static Bytes packet(std::size_t bytes, unsigned seed) {
    std::mt19937 random(seed);
    Bytes packet(bytes);
    for (std::byte& b : packet) b = static_cast<std::byte>(random());
    return packet;
  }
  void on_the_wire(const Bytes& packet) {
    EXPECT_EQ(::send(wire_.get(), packet.data(), packet.size(), 0),
              static_cast<ssize_t>(packet.size()));
  }
  Bytes bytes_at(std::uint64_t at, std::size_t count) {
    return Bytes(memory_.at(at), memory_.at(at) + count);
  }
  bool breaks() {
    for (int i = 0; i < 20'000 && !broken_; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return broken_;
  }

  static constexpr std::uint64_t plain = feature_version_1 | feature_event_index;
  static constexpr std::uint64_t mergeable = plain | std::uint64_t{1} << net::mergeable_buffers;

  TestMemory memory_{1 << 20};
  QueueDriver receive_{memory_, entries, true}, transmit_{memory_, entries, true};
  UniqueFd receive_kick_{::eventfd(0, EFD_CLOEXEC)}, transmit_kick_{::eventfd(0, EFD_CLOEXEC)};
  CountingInterrupt interrupt_;
  std::atomic<bool> broken_{false};
  PacketOffloads offloads_;
  UniqueFd wire_;
  std::unique_ptr<NetDevice> device_;
};

TEST_F(NetDeviceTest, CarriesPacketsBothWays) {
  ASSERT_TRUE(start(plain));
  const std::uint64_t room = memory_.take(4096);
  for (unsigned round = 0; round < 200; ++round) {
    const Bytes in = packet(60 + round * 7, round), out = packet(1514 - round * 7, round);
    offer(room, 2048);
    on_the_wire(in);
    const auto used = wait_used(receive_);
    ASSERT_TRUE(used);
    ASSERT_EQ(used->length, in.size());
    Bytes expected = in;
    expected[10] = std::byte{1};  // the number of buffers
    expected[11] = std::byte{0};
    ASSERT_EQ(bytes_at(room, in.size()), expected);

    std::copy(out.begin(), out.end(), memory_.at(room + 2048));
    transmit_.add({{room + 2048, 12, false},
                   {room + 2060, static_cast<std::uint32_t>(out.size() - 12), false}},
                  round % 2 == 0);
    kick(transmit_kick_);
    ASSERT_TRUE(wait_used(transmit_));
    Bytes got(4096);
    const ssize_t length = ::recv(wire_.get(), got.data(), got.size(), 0);
    ASSERT_EQ(length, static_cast<ssize_t>(out.size()));
    got.resize(static_cast<std::size_t>(length));
    ASSERT_EQ(got, out);
  }
  EXPECT_GT(interrupt_.count, 0U);
}

TEST_F(NetDeviceTest, MergesBuffersAndWaitsForEnoughOfThem) {
  ASSERT_TRUE(start(mergeable));
  constexpr std::uint32_t small = 100;
  const std::uint64_t room = memory_.take(entries * small);
  const Bytes in = packet(950, 1);
  for (unsigned i = 0; i < 4; ++i) offer(room + i * small, small);
  on_the_wire(in);
  EXPECT_FALSE(wait_used(receive_, 200));  // nothing of a packet before all of it
  for (unsigned i = 4; i < 10; ++i) offer(room + i * small, small);
  Bytes got;
  for (unsigned i = 0; i < 10; ++i) {
    // The first is waited for; the others must be there with it.
    const auto used = i == 0 ? wait_used(receive_) : receive_.poll();
    ASSERT_TRUE(used) << i;
    EXPECT_EQ(used->length, i == 9 ? 50U : small);
    const Bytes part = bytes_at(room + i * small, used->length);
    got.insert(got.end(), part.begin(), part.end());
  }
  Bytes expected = in;
  expected[10] = std::byte{10};
  expected[11] = std::byte{0};
  EXPECT_EQ(got, expected);
}

TEST_F(NetDeviceTest, KeepsOrderWhileTheDriverIsSlow) {
  ASSERT_TRUE(start(mergeable));
  const std::uint64_t room = memory_.take(2048);
  for (unsigned i = 0; i < 20; ++i) on_the_wire(packet(100 + i, i));
  for (unsigned i = 0; i < 20; ++i) {
    offer(room, 2048);
    const auto used = wait_used(receive_);
    ASSERT_TRUE(used) << i;
    ASSERT_EQ(used->length, 100 + i);
  }
}

TEST_F(NetDeviceTest, DropsWhatFitsNoBuffer) {
  ASSERT_TRUE(start(plain));
  const std::uint64_t room = memory_.take(2048);
  offer(room, 200);
  on_the_wire(packet(201, 1));
  on_the_wire(packet(200, 2));
  const auto used = wait_used(receive_);
  ASSERT_TRUE(used);
  EXPECT_EQ(used->length, 200U);
  EXPECT_EQ(memory_.get<std::byte>(room + 199), packet(200, 2)[199]);
}

TEST_F(NetDeviceTest, ABufferWithoutRoomForTheHeaderBreaksTheQueue) {
  ASSERT_TRUE(start(mergeable));
  offer(memory_.take(64), 11);
  on_the_wire(packet(100, 1));
  EXPECT_TRUE(breaks());
}

TEST_F(NetDeviceTest, TakesNoChainOutsideOfMemory) {
  ASSERT_TRUE(start(plain));
  transmit_.add({{1 << 30, 100, false}}, false);
  kick(transmit_kick_);
  EXPECT_TRUE(breaks());
}

TEST_F(NetDeviceTest, AShortPacketIsGivenBackUnsent) {
  ASSERT_TRUE(start(plain));
  const std::uint64_t room = memory_.take(64);
  transmit_.add({{room, 12, false}}, false);
  kick(transmit_kick_);
  ASSERT_TRUE(wait_used(transmit_));
  std::byte got;
  EXPECT_EQ(::recv(wire_.get(), &got, 1, MSG_DONTWAIT), -1);
}

TEST_F(NetDeviceTest, IsQuietAndGoesOn) {
  ASSERT_TRUE(start(mergeable));
  const std::uint64_t room = memory_.take(2048);
  offer(room, 1000);
  device_->quiesce();
  on_the_wire(packet(500, 1));
  EXPECT_FALSE(wait_used(receive_, 200));
  device_->resume();
  const auto used = wait_used(receive_);
  ASSERT_TRUE(used);
  EXPECT_EQ(used->length, 500U);
  device_->quiesce();
  EXPECT_EQ(device_->positions()[0].next_available, 1);
  EXPECT_EQ(device_->positions()[0].next_used, 1);
}

TEST_F(NetDeviceTest, TellsThePortWhatTheDriverTakes) {
  const auto bit = [](unsigned number) { return std::uint64_t{1} << number; };
  ASSERT_TRUE(start(plain | bit(net::guest_checksum) | bit(net::guest_tso4)));
  EXPECT_TRUE(offloads_.checksum && offloads_.tcp4);
  EXPECT_FALSE(offloads_.tcp6 || offloads_.congestion);
  device_->reset();
  EXPECT_FALSE(start(feature_event_index));  // not of version 1
}

TEST_F(NetDeviceTest, HasItsAddressInItsConfiguration) {
  Bytes config(64);
  device_->read_config(0, config);
  EXPECT_EQ(config[0], std::byte{0x52});
  EXPECT_EQ(config[5], std::byte{0x56});
  EXPECT_EQ(config[6], std::byte{1});  // the link is up
}

TEST(MacAddress, IsReadStrictly) {
  EXPECT_EQ(to_string(*parse_mac("52:54:00:ab:CD:ef")), "52:54:00:ab:cd:ef");
  for (const char* wrong :
       {"", "52:54:00:12:34", "52:54:00:12:34:5", "52:54:00:12:34:567", "52-54-00-12-34-56",
        "52:54:00:12:34:g6", "+2:54:00:12:34:56", "01:00:5e:00:00:01", "00:00:00:00:00:00"}) {
    EXPECT_FALSE(parse_mac(wrong)) << wrong;
  }
  const MacAddress one = random_mac();
  EXPECT_TRUE(parse_mac(to_string(one)));
  EXPECT_NE(one, random_mac());
}

}  // namespace
}  // namespace tidepool::virtio
