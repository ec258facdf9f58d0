// A driver of the SCSI adapter that lies: the input is the guest's memory, with the rings of
// the control, event and request queue. Each header that comes out is judged; then the
// adapter itself serves the same memory, and must end what it took.
#include <sys/eventfd.h>

#include <algorithm>
#include <array>

#include "base/log.h"
#include "scsi/device_thread.h"
#include "scsi/names.h"
#include "tests/fuzz/target.h"
#include "tests/lib/queue_driver.h"
#include "tests/lib/simulated_store.h"
#include "virtio/scsi_device.h"

namespace tidepool::test {

using namespace virtio;

namespace {

constexpr std::uint64_t memory_bytes = 8192, disk_bytes = 64 * 1024;
constexpr std::uint16_t entries = 8;
constexpr unsigned control = 0, request = 2, queues = 3;

struct Rings {
  explicit Rings(TestMemory& memory) {
    for (unsigned i = 0; i < queues; ++i) drivers.emplace_back(memory, entries, true);
  }
  std::vector<QueueDriver> drivers;
};

class Silent final : public Interrupt {
 public:
  void signal() override {}
};

void fill(TestMemory& memory, std::span<const std::byte> input) {
  std::copy_n(input.begin(), std::min<std::size_t>(input.size(), memory_bytes),
              memory.at(TestMemory::base));
}

void judge_headers(TestMemory& memory, const QueueLayout& layout) {
  MemoryWriter writer("fuzz");
  writer.connect(memory.map());
  auto queue = SplitQueue::create(writer, layout, true, {});
  require(queue.has_value(), "the rings fit");
  Chain chain;
  for (unsigned turn = 0; turn <= 2 * entries; ++turn) {
    if (queue->pop(chain) != PopResult::chain) return;
    if (const auto asked = parse_scsi_request(chain)) {
      require(asked->data_out + scsi_request_bytes == chain.readable_bytes, "data to the device");
      require(asked->data_in + scsi_response_bytes == chain.writable_bytes, "data to the driver");
      const std::vector<std::byte> data(std::min<std::uint64_t>(asked->data_in, memory_bytes));
      const std::array<std::byte, 2 * scsi_sense_bytes> sense{};
      require(write_scsi_response(chain, {.sense = sense}, data) <= chain.writable_bytes,
              "a response fits");
    }
    if (const auto asked = parse_scsi_control(chain)) {
      require(write_scsi_control(chain, asked->kind, 0) <= chain.writable_bytes, "an answer fits");
    }
    queue->push(chain, 0);
  }
}

scsi::DeviceThread& target() {
  static scsi::DeviceThread& made = [&]() -> scsi::DeviceThread& {
    auto* const thread = scsi::DeviceThread::start()->release();
    require(thread->add(0, SimulatedStore::open(disk_bytes), nullptr, {}).has_value(), "a unit");
    return *thread;
  }();
  return made;
}

}  // namespace

std::vector<Input> seeds() {
  std::vector<Input> inputs;
  for (const bool indirect : {false, true}) {
    for (const std::array<unsigned, 3> cdb :
         {std::array{0x00U, 0U, 0U}, std::array{0x12U, 4U, 64U}, std::array{0x28U, 8U, 1U},
          std::array{0x2aU, 8U, 1U}, std::array{0x5fU, 8U, 24U}}) {
      TestMemory memory(memory_bytes);
      Rings rings(memory);
      const std::uint64_t header = memory.take(scsi_request_bytes), data = memory.take(512),
                          response = memory.take(scsi_response_bytes);
      memory.put<std::uint32_t>(header, 0x00400001);  // the target, unit 0
      memory.put<std::uint8_t>(header + 19, static_cast<std::uint8_t>(cdb[0]));
      memory.put<std::uint8_t>(header + 19 + cdb[1], static_cast<std::uint8_t>(cdb[2]));
      std::vector<QueueDriver::Piece> pieces{{header, scsi_request_bytes, false}};
      if (cdb[0] > 0x28) pieces.push_back({data, cdb[0] == 0x2a ? 512U : 24U, false});
      pieces.push_back({response, scsi_response_bytes, true});
      if (cdb[0] <= 0x28) pieces.push_back({data, 512, true});
      for (int i = 0; i < 2; ++i) rings.drivers[request].add(pieces, indirect);
      const std::uint64_t management = memory.take(24), answer = memory.take(1);
      memory.put<std::uint32_t>(management + 4, cdb[0] % 8);
      memory.put<std::uint32_t>(management + 8, 0x00400001);
      rings.drivers[control].add({{management, 24, false}, {answer, 1, true}}, indirect);
      const std::byte* const start = memory.at(TestMemory::base);
      inputs.emplace_back(start, start + memory_bytes);
    }
  }
  return inputs;
}

void run_one(std::span<const std::byte> input) {
  log().set_level(spdlog::level::off);
  TestMemory memory(memory_bytes);
  const Rings rings(memory);  // for where they are
  fill(memory, input);
  judge_headers(memory, rings.drivers[request].layout());
  std::fill_n(memory.at(TestMemory::base), memory_bytes, std::byte{});
  fill(memory, input);
  const UniqueFd kick(::eventfd(0, EFD_CLOEXEC));
  Silent interrupt;
  auto device = ScsiDevice::create(target().device(), target().loop(),
                                   {.name = "fuzz", .port = scsi::local_port("fuzz", 0)});
  require(device.has_value(), "an adapter");
  (*device)->connect(memory.map());
  DeviceStart start{.features = (*device)->features()};
  start.broken = [](const std::string& why) { require(!why.empty(), "a fault says something"); };
  for (const QueueDriver& driver : rings.drivers) {
    start.queues.emplace_back(QueueStart{driver.layout(), {}, kick.get(), &interrupt});
  }
  require((*device)->start(std::move(start)).has_value(), "it starts");
  (*device)->reset();
  device->reset();
  bool idle = false;
  call_on(target().loop(), [&] { idle = target().device().idle(); });
  require(idle, "nothing stays behind");
}

}  // namespace tidepool::test
