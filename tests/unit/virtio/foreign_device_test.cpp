// The front end and its device before back ends that say nothing, too little, something else,
// or no. What is told to them is written by hand, from the protocol's document.
#include "virtio/vhost_user/foreign_device.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <future>
#include <map>

#include "base/codec.h"
#include "base/unix_address.h"
#include "virtio/vhost_user/foreign_kinds.h"
#include "virtio/vhost_user/socket_io.h"

namespace tidepool::virtio::vhost_user {
namespace {

using namespace std::chrono_literals;
using Bytes = std::vector<std::byte>;

constexpr std::uint32_t version_and_answer = 1 | 4;

Bytes message(std::uint32_t request, std::uint32_t flags, std::span<const std::byte> payload) {
  Bytes bytes;
  Encoder encoder(bytes);
  encoder.u32(request);
  encoder.u32(flags);
  encoder.u32(static_cast<std::uint32_t>(payload.size()));
  encoder.bytes(payload);
  return bytes;
}
Bytes number(std::uint64_t value) {
  Bytes bytes;
  Encoder(bytes).u64(value);
  return bytes;
}
Bytes answer_to(Request request, std::span<const std::byte> payload) {
  return message(static_cast<std::uint32_t>(request), version_and_answer, payload);
}

// A back end of one queue that answers as it should, but for what a test has it do instead.
class OtherEnd {
 public:
  // For one request; false: then it closes the connection.
  using Act = std::function<bool(int socket)>;

  static constexpr std::uint64_t usual = protocol_queues | protocol_answers | protocol_config;
  explicit OtherEnd(std::map<Request, Act> instead = {}, std::uint64_t protocol = usual)
      : instead_(std::move(instead)), protocol_(protocol) {
    char name[] = "/tmp/foreign-device-test.XXXXXX";
    directory_ = ::mkdtemp(name);
    path_ = directory_ + "/socket";
    listener_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_un address = *unix_address(path_);
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
              0);
    EXPECT_EQ(::listen(listener_.get(), 8), 0);
    thread_ = std::thread([this] { serve(); });
  }
  ~OtherEnd() {
    stopping_ = true;
    ::shutdown(listener_.get(), SHUT_RDWR);
    die();
    thread_.join();
    std::filesystem::remove_all(directory_);
  }

  const std::string& path() const { return path_; }
  void die() {
    const std::lock_guard lock(mutex_);
    if (connection_) ::shutdown(connection_.get(), SHUT_RDWR);
  }

  static Act says(Bytes bytes, std::vector<int> descriptors = {}) {
    return [=](int socket) { return send_whole(socket, bytes, descriptors) == 0; };
  }

 private:
  void serve() {
    while (!stopping_) {
      UniqueFd next(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      const int socket = next.get();
      {
        const std::lock_guard lock(mutex_);
        connection_ = std::move(next);
      }
      if (stopping_) die();
      while (socket >= 0 && handle(socket)) {
      }
      const std::lock_guard lock(mutex_);
      connection_.reset();
    }
  }

  bool handle(int socket) {
    std::array<std::byte, header_bytes> bytes;
    if (receive_whole(socket, bytes).count < bytes.size()) return false;
    const auto header = parse_header(bytes);
    if (!header) return false;
    Bytes payload(header->payload_bytes);
    if (receive_whole(socket, payload).count < payload.size()) return false;
    if (const auto act = instead_.find(header->request); act != instead_.end()) {
      return act->second(socket);
    }
    const auto send = [&](const Bytes& answer) {
      return send_whole(socket, answer_to(header->request, answer), {}) == 0;
    };
    switch (header->request) {
      case Request::get_features:
        return send(number(ring_features | feature_protocol));
      case Request::get_protocol_features:
        return send(number(protocol_));
      case Request::get_queue_count:
        return send(number(1));
      case Request::get_config:
      case Request::get_vring_base:
        return send(payload);
      default:
        return !header->wants_answer || send(number(0));
    }
  }

  const std::map<Request, Act> instead_;
  const std::uint64_t protocol_;
  std::string directory_, path_;
  UniqueFd listener_;
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;  // guards what follows
  UniqueFd connection_;
  std::thread thread_;
};

Result<std::unique_ptr<FrontEnd>> connect(const OtherEnd& other,
                                          std::chrono::milliseconds patience = 60s) {
  return FrontEnd::connect(other.path(), protocol_answers | protocol_config | protocol_inflight,
                           patience);
}
// What the front end says of a back end that answers the first question so.
std::string error_of(OtherEnd::Act act, std::chrono::milliseconds patience = 60s) {
  const OtherEnd other({{Request::get_features, std::move(act)}});
  const auto front = connect(other, patience);
  return front ? "it is content" : front.error().message;
}
auto has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos ? testing::AssertionSuccess()
                                              : testing::AssertionFailure() << text;
}
std::ptrdiff_t open_files() {
  const std::filesystem::directory_iterator files("/proc/self/fd");
  return std::distance(begin(files), end(files));
}

TEST(FrontEnd, TakesOneThatAnswersAsItShould) {
  const OtherEnd other;
  const auto front = connect(other);
  ASSERT_TRUE(front) << front.error().message;
  EXPECT_EQ((*front)->features(), ring_features);
  EXPECT_TRUE((*front)->has(protocol_answers));
  EXPECT_FALSE((*front)->has(protocol_queues));  // which was not wanted
  EXPECT_FALSE((*front)->has(protocol_inflight));
  EXPECT_TRUE((*front)->set_vring(Request::set_vring_size, 0, 4));
}

TEST(FrontEnd, DoesNotWaitForOneThatSaysNothing) {
  EXPECT_TRUE(has(error_of([](int) { return true; }, 200ms), "did not answer"));
}

// Each byte is there soon, and the whole never is.
TEST(FrontEnd, DoesNotWaitForAnAnswerThatDrips) {
  const auto drip = [](int socket) {
    const Bytes answer = answer_to(Request::get_features, number(0));
    for (const std::byte& byte : answer) {
      if (send_whole(socket, {&byte, 1}, {}) != 0) return false;
      std::this_thread::sleep_for(100ms);
    }
    return true;
  };
  EXPECT_TRUE(has(error_of(drip, 400ms), "did not answer"));
}

TEST(FrontEnd, SaysWhatIsWrongWithAnAnswer) {
  const Bytes right = answer_to(Request::get_features, number(ring_features | feature_protocol));
  const auto said = [](Bytes bytes) { return error_of(OtherEnd::says(std::move(bytes))); };
  EXPECT_EQ(said(right), "it is content");
  const auto cut = [&](std::ptrdiff_t count) {
    return error_of([&right, count](int socket) {
      send_whole(socket, std::span(right).first(static_cast<std::size_t>(count)), {});
      return false;
    });
  };
  for (const std::ptrdiff_t count : {0, 1, 11, 12, 19}) {
    EXPECT_TRUE(has(cut(count), "has gone")) << count;
  }
  const Bytes eight = number(0);
  EXPECT_TRUE(has(said(answer_to(Request::get_queue_count, eight)), "not the answer"));
  EXPECT_TRUE(has(said(message(1, 1, eight)), "not the answer"));      // a question
  EXPECT_TRUE(has(said(message(1, 2 | 4, eight)), "not the answer"));  // of version 2
  EXPECT_TRUE(has(said(message(1, 5, Bytes(most_payload + 1))), "not the answer"));
  EXPECT_TRUE(has(said(answer_to(Request::get_features, Bytes(4))), "by a number"));
  EXPECT_TRUE(has(said(answer_to(Request::get_features, Bytes(16))), "by a number"));
  EXPECT_TRUE(has(said(answer_to(Request::get_features, {})), "by a number"));
  EXPECT_TRUE(has(said(answer_to(Request::get_features, number(ring_features))), "lacks"));
  EXPECT_TRUE(has(said(answer_to(Request::get_features, number(feature_protocol))), "lacks"));
}

TEST(FrontEnd, IsToldThatItIsRefused) {
  const OtherEnd other(
      {{Request::set_vring_size, OtherEnd::says(answer_to(Request::set_vring_size, number(1)))}});
  const auto front = connect(other);
  ASSERT_TRUE(front);
  const auto refused = (*front)->set_vring(Request::set_vring_size, 0, 4);
  ASSERT_FALSE(refused);
  EXPECT_TRUE(has(refused.error().message, "refuses message 8"));
}

TEST(FrontEnd, ClosesDescriptorsThatItDidNotAskFor) {
  const UniqueFd file(::eventfd(0, EFD_CLOEXEC));
  const Bytes right = answer_to(Request::get_features, number(ring_features | feature_protocol));
  const auto before = open_files();
  EXPECT_EQ(error_of(OtherEnd::says(right, std::vector<int>(most_descriptors, file.get()))),
            "it is content");
  EXPECT_EQ(open_files(), before);
}

// --- the device ---

class ForeignDeviceTest : public testing::Test {
 protected:
  static constexpr std::uint64_t memory_bytes = 1 << 16;

  ForeignDeviceTest() {
    EXPECT_EQ(::ftruncate(file_.get(), memory_bytes), 0);
    host_ = static_cast<std::byte*>(
        ::mmap(nullptr, memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0));
    memory_ = *GuestMemory::create({{0, memory_bytes, host_, file_.get(), 0}});
  }
  ~ForeignDeviceTest() override { ::munmap(host_, memory_bytes); }

  Result<std::unique_ptr<ForeignDevice>> create(const OtherEnd& other) {
    auto options = foreign_block(1);
    options.patience = 60s;
    auto device = ForeignDevice::create(other.path(), options);
    if (device) (*device)->connect(memory_);
    return device;
  }
  std::string error_of_creating(const OtherEnd& other) {
    const auto device = create(other);
    return device ? "it is content" : device.error().message;
  }
  DeviceStart start(std::function<void(const std::string&)> broken = {}) {
    return {feature_version_1,
            {QueueStart{{4, 0x1000, 0x2000, 0x3000}, {}, kick_.get(), &interrupt_}},
            std::move(broken)};
  }

  struct NoInterrupt : Interrupt {
    void signal() override {}
  };
  const UniqueFd file_{::memfd_create("guest", MFD_CLOEXEC)}, kick_{::eventfd(0, EFD_CLOEXEC)};
  std::byte* host_ = nullptr;
  std::shared_ptr<const GuestMemory> memory_;
  NoInterrupt interrupt_;
};

TEST_F(ForeignDeviceTest, BeginsAndEndsWithOneThatIsHonest) {
  const OtherEnd other;
  auto device = create(other);
  ASSERT_TRUE(device) << device.error().message;
  EXPECT_EQ((*device)->queue_sizes().size(), 1U);
  ASSERT_TRUE((*device)->start(start()));
  (*device)->quiesce();
  EXPECT_EQ((*device)->positions()[0].next_available, 0);
  (*device)->resume();
  (*device)->reset();
}

TEST_F(ForeignDeviceTest, IsNotMadeOfOneThatSaysNonsense) {
  const auto config = [&](std::uint32_t length) {
    Bytes payload;
    Encoder encoder(payload);
    encoder.u32(0);
    encoder.u32(length);
    encoder.u32(0);
    payload.resize(payload.size() + length);
    return OtherEnd(
        {{Request::get_config, OtherEnd::says(answer_to(Request::get_config, payload))}});
  };
  EXPECT_EQ(error_of_creating(config(60)), "it is content");
  for (const std::uint32_t length : {0U, 59U, 61U, 256U, 300U}) {
    EXPECT_TRUE(has(error_of_creating(config(length)), "configuration is not")) << length;
  }
  const OtherEnd none(
      {{Request::get_queue_count, OtherEnd::says(answer_to(Request::get_queue_count, number(0)))}});
  EXPECT_TRUE(has(error_of_creating(none), "no queues"));
  const OtherEnd mute({}, protocol_answers);
  EXPECT_TRUE(has(error_of_creating(mute), "does not tell its configuration"));
}

TEST_F(ForeignDeviceTest, DoesNotBeginWithoutTheNotesThatWereOffered) {
  Bytes region;
  Encoder encoder(region);
  encoder.u64(4096);
  encoder.u64(0);
  encoder.u16(1);
  encoder.u16(256);
  const std::pair<const char*, OtherEnd::Act> lies[] = {
      {"no file", OtherEnd::says(answer_to(Request::get_inflight, region))},
      {"two files",
       OtherEnd::says(answer_to(Request::get_inflight, region), {kick_.get(), kick_.get()})},
      {"half an answer",
       OtherEnd::says(answer_to(Request::get_inflight, std::span(region).first(8)), {kick_.get()})},
  };
  for (const auto& [what, lie] : lies) {
    const auto before = open_files();
    {
      const OtherEnd other({{Request::get_inflight, lie}}, OtherEnd::usual | protocol_inflight);
      auto device = create(other);
      ASSERT_TRUE(device) << what;
      const auto started = (*device)->start(start());
      ASSERT_FALSE(started) << what;
      EXPECT_TRUE(has(started.error().message, "no region")) << what;
      (*device)->reset();
    }
    EXPECT_EQ(open_files(), before) << what;
  }
}

TEST_F(ForeignDeviceTest, IsToldThatASettingIsRefused) {
  const OtherEnd other({{Request::set_memory_table,
                         OtherEnd::says(answer_to(Request::set_memory_table, number(1)))}});
  auto device = create(other);
  ASSERT_TRUE(device);
  const auto started = (*device)->start(start());
  ASSERT_FALSE(started);
  EXPECT_TRUE(has(started.error().message, "refuses message 5"));
  (*device)->reset();
}

// Who is told so may call the device: none of its locks is held then.
TEST_F(ForeignDeviceTest, SaysThatItIsBrokenWithoutHoldingALock) {
  OtherEnd other;
  auto device = create(other);
  ASSERT_TRUE(device);
  std::future<void> call;
  std::promise<std::pair<std::string, bool>> told;
  ASSERT_TRUE((*device)->start(start([&](const std::string& why) {
    call = std::async(std::launch::async, [&] { (*device)->quiesce(); });
    told.set_value({why, call.wait_for(20s) == std::future_status::ready});
  })));
  other.die();
  const auto [why, was_free] = told.get_future().get();
  EXPECT_TRUE(has(why, "keeps no notes"));
  EXPECT_TRUE(was_free);
  (*device)->reset();
}

}  // namespace
}  // namespace tidepool::virtio::vhost_user
