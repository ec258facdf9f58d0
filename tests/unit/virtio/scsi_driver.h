// A driver of a SCSI adapter, for its tests: commands and task management over the queues,
// as a guest sends them.
#pragma once

#include <gtest/gtest.h>
#include <linux/virtio_scsi.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <condition_variable>
#include <map>
#include <mutex>

#include "base/byte_order.h"
#include "scsi/big_endian.h"
#include "scsi/device_thread.h"
#include "scsi/names.h"
#include "tests/lib/queue_driver.h"
#include "virtio/scsi_device.h"

namespace tidepool::test {

using namespace virtio;
using Bytes = std::vector<std::byte>;

struct ScsiInterrupt : Interrupt {
  UniqueFd fd{::eventfd(0, EFD_CLOEXEC)};
  void signal() override {
    const std::uint64_t one = 1;
    EXPECT_EQ(::write(fd.get(), &one, sizeof one), 8);
  }
  bool wait(int milliseconds) {
    pollfd entry{.fd = fd.get(), .events = POLLIN, .revents = 0};
    if (::poll(&entry, 1, milliseconds) <= 0) return false;
    std::uint64_t count = 0;
    EXPECT_EQ(::read(fd.get(), &count, sizeof count), 8);
    return true;
  }
};

struct ScsiAnswered {
  unsigned response = 0xff, status = 0xff;
  std::uint32_t residual = 0, written = 0;
  Bytes sense, data;
  unsigned key() const { return sense.size() > 2 ? scsi::load_be8(&sense[2]) & 0x0f : 0; }
  unsigned code() const { return sense.size() > 13 ? scsi::load_be16(&sense[12]) : 0; }
};

// A driver of one adapter.
class ScsiDriver {
 public:
  static constexpr unsigned control = 0, events = 1, requests = 2, queues = 4;

  ScsiDriver(scsi::DeviceThread& target, const std::string& name) {
    auto device = virtio::ScsiDevice::create(
        target.device(), target.loop(),
        {.name = name, .port = scsi::local_port(name, 0), .request_queues = queues - requests});
    if (!device) std::abort();
    device_ = std::move(*device);
    device_->connect(memory_.map());
    for (unsigned i = 0; i < queues; ++i) drivers_.emplace_back(memory_, 64, true);
    start({});
  }
  ~ScsiDriver() { device_->reset(); }

  void start(QueuePosition position) {
    DeviceStart start{.features = device_->features()};
    for (unsigned i = 0; i < queues; ++i) {
      const QueuePosition at = i == requests ? position : QueuePosition{};
      start.queues.emplace_back(QueueStart{drivers_[i].layout(), at, kicks_[i].get(), &interrupt_});
    }
    start.broken = [this](const std::string& why) {
      const std::lock_guard lock(mutex_);
      broken_ = why;
      changed_.notify_all();
    };
    auto started = device_->start(std::move(start));
    ASSERT_TRUE(started) << started.error().message;
  }
  // As a guest that is booted again.
  void begin_anew() {
    device_->reset();
    drivers_.clear();
    for (unsigned i = 0; i < queues; ++i) drivers_.emplace_back(memory_, 64, true);
    start({});
  }

  struct Asked {
    std::uint64_t response = 0, data = 0;  // guest addresses
    std::uint32_t room = 0;
    std::uint16_t head = 0;
    unsigned queue = 0;
  };
  struct Command {
    std::vector<unsigned> cdb;
    Bytes out = {};
    std::uint32_t in = 0;
    std::uint64_t id = 1;
    unsigned lun = 0, target = 0, queue = requests, attribute = 0;
  };
  Asked ask(const Command& command) {
    const std::uint64_t header = memory_.take(scsi_request_bytes);
    std::memset(memory_.at(header), 0, scsi_request_bytes);
    put_lun(header, command.target, command.lun);
    memory_.put<std::uint64_t>(header + 8, command.id);
    memory_.put<std::uint8_t>(header + 16, static_cast<std::uint8_t>(command.attribute));
    std::uint64_t at = header + 19;
    for (const unsigned byte : command.cdb) memory_.put(at++, static_cast<std::uint8_t>(byte));
    Asked asked{.response = memory_.take(scsi_response_bytes),
                .data = memory_.take(std::max<std::size_t>({command.out.size(), command.in, 1})),
                .room = command.in,
                .queue = command.queue};
    std::memset(memory_.at(asked.response), 0xee, scsi_response_bytes);
    std::vector<QueueDriver::Piece> pieces{{header, scsi_request_bytes, false}};
    if (!command.out.empty()) {
      std::ranges::copy(command.out, memory_.at(asked.data));
      // Two pieces, of odd lengths.
      const auto half = static_cast<std::uint32_t>(command.out.size() / 2 | 1);
      pieces.push_back({asked.data, half, false});
      if (command.out.size() > half) {
        pieces.push_back(
            {asked.data + half, static_cast<std::uint32_t>(command.out.size()) - half, false});
      }
    }
    pieces.push_back({asked.response, scsi_response_bytes, true});
    if (command.in > 0) pieces.push_back({asked.data, command.in, true});
    asked.head = drivers_[command.queue].add(pieces, true);
    kick(command.queue);
    return asked;
  }
  // Nothing: not yet.
  std::optional<ScsiAnswered> take(const Asked& asked, int milliseconds = 20'000) {
    const auto key = std::pair(asked.queue, asked.head);
    while (!used_.contains(key)) {
      if (collect()) continue;
      if (!interrupt_.wait(milliseconds) && !collect()) return std::nullopt;
    }
    ScsiAnswered answer;
    answer.written = used_[key];
    used_.erase(key);
    const std::byte* const bytes = memory_.at(asked.response);
    answer.residual = load_le32(bytes + 4);
    answer.status = scsi::load_be8(bytes + 10);
    answer.response = scsi::load_be8(bytes + 11);
    answer.sense.assign(bytes + 12, bytes + 12 + load_le32(bytes));
    const std::uint32_t data = answer.written - std::min(answer.written, scsi_response_bytes);
    answer.data.assign(memory_.at(asked.data), memory_.at(asked.data) + data);
    return answer;
  }
  ScsiAnswered run(const Command& command) { return take(ask(command)).value_or(ScsiAnswered{}); }
  // Takes what attentions there are; their codes.
  std::vector<unsigned> attentions(unsigned lun = 0) {
    std::vector<unsigned> codes;
    for (;;) {
      const ScsiAnswered answer = run({.cdb = {0x00}, .lun = lun});
      if (answer.key() != 6) return codes;
      codes.push_back(answer.code());
    }
  }
  unsigned manage(std::uint32_t function, unsigned lun = 0, std::uint64_t id = 1,
                  unsigned target = 0) {
    const std::uint64_t header = memory_.take(24), response = memory_.take(1);
    memory_.put<std::uint32_t>(header, VIRTIO_SCSI_T_TMF);
    memory_.put<std::uint32_t>(header + 4, function);
    put_lun(header + 8, target, lun);
    memory_.put<std::uint64_t>(header + 16, id);
    return send_control({{header, 24, false}, {response, 1, true}}, response);
  }
  unsigned send_control(const std::vector<QueueDriver::Piece>& pieces, std::uint64_t response) {
    memory_.put<std::uint8_t>(response, 0xee);
    const std::uint16_t head = drivers_[control].add(pieces, false);
    kick(control);
    const auto key = std::pair(control, head);
    while (!used_.contains(key))
      if (!collect() && !interrupt_.wait(20'000) && !collect()) return 0xff;
    used_.erase(key);
    return memory_.get<std::uint8_t>(response);
  }
  void offer_events() {
    drivers_[events].add({{memory_.take(16), 16, true}}, false);
    kick(events);
  }
  std::string broken() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(20), [&] { return !broken_.empty(); });
    return broken_;
  }
  virtio::ScsiDevice& device() { return *device_; }
  TestMemory& memory() { return memory_; }
  void add(unsigned queue, const std::vector<QueueDriver::Piece>& pieces) {
    drivers_[queue].add(pieces, false);
    kick(queue);
  }

 private:
  void put_lun(std::uint64_t at, unsigned target, unsigned lun) {
    memory_.put<std::uint64_t>(at, 0);
    memory_.put<std::uint8_t>(at, 1);
    memory_.put<std::uint8_t>(at + 1, static_cast<std::uint8_t>(target));
    memory_.put<std::uint8_t>(at + 2, static_cast<std::uint8_t>(0x40 | lun >> 8));
    memory_.put<std::uint8_t>(at + 3, static_cast<std::uint8_t>(lun));
  }
  void kick(unsigned queue) {
    const std::uint64_t one = 1;
    EXPECT_EQ(::write(kicks_[queue].get(), &one, sizeof one), 8);
    drivers_[queue].kicked();
  }
  bool collect() {
    bool any = false;
    for (unsigned queue = 0; queue < queues; ++queue) {
      while (const auto used = drivers_[queue].poll()) {
        used_[{queue, static_cast<std::uint16_t>(used->id)}] = used->length;
        any = true;
      }
    }
    return any;
  }

  TestMemory memory_{112 << 20};
  ScsiInterrupt interrupt_;
  std::array<UniqueFd, queues> kicks_{
      UniqueFd(::eventfd(0, EFD_CLOEXEC)), UniqueFd(::eventfd(0, EFD_CLOEXEC)),
      UniqueFd(::eventfd(0, EFD_CLOEXEC)), UniqueFd(::eventfd(0, EFD_CLOEXEC))};
  std::unique_ptr<virtio::ScsiDevice> device_;
  std::vector<QueueDriver> drivers_;
  std::map<std::pair<unsigned, std::uint16_t>, std::uint32_t> used_;
  std::mutex mutex_;  // guards broken_
  std::condition_variable changed_;
  std::string broken_;
};

}  // namespace tidepool::test
