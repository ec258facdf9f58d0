#include "tests/lib/scsi_initiator.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "scsi/big_endian.h"

namespace tidepool::test {

using namespace scsi;

namespace {

template <class T>
T need(Result<T> result) {
  if (result) return std::move(*result);
  std::fprintf(stderr, "%s\n", result.error().message.c_str());
  std::abort();
}

}  // namespace

PortId test_port(const std::string& name) {
  std::string text = "iqn.2026-11.test:" + name + ",i,0x000000000001";
  text.resize((text.size() + 4) / 4 * 4);
  PortId port("\x45\0", 2);
  port += static_cast<char>(text.size() >> 8);
  port += static_cast<char>(text.size() & 0xff);
  return port + text;
}

Cdb cdb_of(std::initializer_list<unsigned> bytes) {
  Cdb cdb{};
  std::ranges::transform(bytes, cdb.begin(), [](unsigned b) { return static_cast<std::byte>(b); });
  return cdb;
}

ScsiDevice::Threads::Threads()
    : loop(need(EventLoop::create({}))), helper(need(LoopThread::start("helper", {}))) {}

ScsiDevice::ScsiDevice(std::uint64_t size, const Options& options)
    : threads_(options.threads ? options.threads : std::make_shared<Threads>()),
      store_(options.store) {
  if (!store_) store_ = SimulatedStore::open(size);
  auto content = options.reservations;
  if (!content) content = std::make_shared<ReservationMemory::Content>();
  for (unsigned number = 0; number < options.units; ++number) {
    auto storage =
        number == 0
            ? std::make_unique<ReservationMemory>(content)
            : std::make_unique<ReservationMemory>(std::make_shared<ReservationMemory::Content>());
    device_.add(static_cast<std::uint16_t>(number),
                need(LogicalUnit::open(*threads_->loop, *threads_->helper, device_, store_,
                                       std::move(storage), options.unit)));
  }
}

std::uint8_t ScsiAnswer::key() const {
  if (sense.size() < 3) return 0;
  const bool descriptor = (load_be8(&sense[0]) & 0x7e) == 0x72;
  return load_be8(&sense[descriptor ? 1 : 2]) & 0x0f;
}

std::uint16_t ScsiAnswer::code() const {
  if (sense.size() < 4) return 0;
  const bool descriptor = (load_be8(&sense[0]) & 0x7e) == 0x72;
  if (!descriptor && sense.size() < 14) return 0;
  return load_be16(&sense[descriptor ? 2 : 12]);
}

ScsiInitiator::ScsiInitiator(ScsiDevice& device, const std::string& name, bool fresh)
    : device_(device), port_(test_port(name)), nexus_(device.device().connect(port_)) {
  if (!fresh)
    while (send({0x00}).key() == 6) {
    }
}

ScsiInitiator::~ScsiInitiator() { device_.device().disconnect(nexus_); }

TaskId ScsiInitiator::begin(const Command& command) {
  answer_.reset();
  auto task = std::make_unique<Task>();
  task->owner = this;
  task->nexus = nexus_;
  task->attribute = command.attribute;
  task->cdb = command.cdb;
  task->data_out_length = static_cast<std::uint32_t>(command.data.size());
  pending_data_ = command.data;
  task->data_complete = !command.data_later || command.data.empty();
  if (task->data_complete) {
    task->data_out = DataBuffer::allocate(command.data.size());
    std::ranges::copy(command.data, task->data_out.data());
  }
  LogicalUnit* const unit = device_.device().find(command.lun);
  const TaskId id = unit != nullptr ? unit->next_id() : 0;
  device_.device().submit(command.lun, std::move(task));
  return id;
}

ScsiAnswer ScsiInitiator::send(const Command& command) {
  begin(command);
  // What is done off the loop comes back on it.
  while (!done())
    if (!device_.loop().poll(true)) std::abort();
  return take();
}

ScsiAnswer ScsiInitiator::send(std::initializer_list<unsigned> cdb, std::vector<std::byte> data) {
  return send({.cdb = cdb_of(cdb), .data = std::move(data)});
}

ScsiAnswer ScsiInitiator::take() {
  ScsiAnswer answer = std::move(*answer_);
  answer_.reset();
  return answer;
}

void ScsiInitiator::want_data(Task& task) {
  task.data_out = DataBuffer::allocate(pending_data_.size());
  std::ranges::copy(pending_data_, task.data_out.data());
  task.unit->data_arrived(task.id);
}

void ScsiInitiator::finished(std::unique_ptr<Task> task) {
  ++answers_;
  ScsiAnswer& answer = answer_.emplace();
  answer.status = task->status;
  answer.sense = task->sense;
  const auto data = task->data_in.span();
  if (task->data_in_length > data.size()) std::abort();
  answer.data.assign(data.begin(), data.begin() + task->data_in_length);
}

void ScsiInitiator::dropped(Task&) {
  ++answers_;
  answer_.emplace().dropped = true;
}

}  // namespace tidepool::test
