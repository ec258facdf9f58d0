// A SCSI device in memory, and initiators that reach it without a transport.
//
//   ScsiDevice device(1 << 20);
//   ScsiInitiator a(device, "a"), b(device, "b");
//   a.send({0x00}).status
//
// send() waits for the answer. A store of one's own may hold requests: begin(), then done()
// says whether the answer is there.
// Limits: one thread; at most one outstanding command of an initiator that holds.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "scsi/device.h"
#include "tests/lib/simulated_store.h"

namespace tidepool::test {

// Keeps in memory what would be stable; `fails` makes saving fail.
class ReservationMemory final : public scsi::ReservationStorage {
 public:
  struct Content {
    scsi::ReservationState state;
    unsigned saves = 0;
    bool fails = false;
  };
  explicit ReservationMemory(std::shared_ptr<Content> content) : content_(std::move(content)) {}
  Result<scsi::ReservationState> load() override { return content_->state; }
  Result<> save(const scsi::ReservationState& state) override {
    if (content_->fails) return fail(ErrorKind::io, "the memory of reservations fails");
    ++content_->saves;
    content_->state = state.through_power_loss ? state : scsi::ReservationState{};
    return {};
  }

 private:
  const std::shared_ptr<Content> content_;
};

class ScsiDevice {
 public:
  // A loop and a helper, which several devices in turn may use.
  struct Threads {
    Threads();
    std::unique_ptr<EventLoop> loop;
    std::unique_ptr<LoopThread> helper;
  };
  struct Options {
    std::shared_ptr<Threads> threads;                          // null: its own
    std::shared_ptr<blockdev::BlockStore> store;               // null: a SimulatedStore of `size`
    std::shared_ptr<ReservationMemory::Content> reservations;  // null: fresh
    scsi::LogicalUnitOptions unit;
    unsigned units = 1;
  };
  explicit ScsiDevice(std::uint64_t size) : ScsiDevice(size, Options()) {}
  ScsiDevice(std::uint64_t size, const Options& options);

  scsi::Device& device() { return device_; }
  scsi::LogicalUnit& unit() { return *device_.find(0); }
  EventLoop& loop() { return *threads_->loop; }
  blockdev::BlockStore& store() { return *store_; }

 private:
  const std::shared_ptr<Threads> threads_;
  std::shared_ptr<blockdev::BlockStore> store_;
  scsi::Device device_;
};

struct ScsiAnswer {
  scsi::Status status = scsi::Status::good;
  std::vector<std::byte> sense;
  std::vector<std::byte> data;
  bool dropped = false;

  std::uint8_t key() const;
  std::uint16_t code() const;  // additional sense code and qualifier
};

class ScsiInitiator final : public scsi::TaskOwner {
 public:
  // Pending unit attentions are taken by the constructor, unless `fresh`.
  ScsiInitiator(ScsiDevice& device, const std::string& name, bool fresh = false);
  ~ScsiInitiator() override;
  ScsiInitiator(const ScsiInitiator&) = delete;
  ScsiInitiator& operator=(const ScsiInitiator&) = delete;

  struct Command {
    scsi::Cdb cdb{};
    std::vector<std::byte> data;
    scsi::TaskAttribute attribute = scsi::TaskAttribute::simple;
    std::uint64_t lun = 0;
    bool data_later = false;  // comes when the unit asks for it
  };
  ScsiAnswer send(const Command& command);
  ScsiAnswer send(std::initializer_list<unsigned> cdb, std::vector<std::byte> data = {});
  // Does not wait for the answer.
  scsi::TaskId begin(const Command& command);
  bool done() const { return answer_.has_value(); }
  ScsiAnswer take();
  unsigned answers() const { return answers_; }

  scsi::NexusId nexus() const { return nexus_; }
  const scsi::PortId& port() const { return port_; }

  void want_data(scsi::Task& task) override;
  void finished(std::unique_ptr<scsi::Task> task) override;
  void dropped(scsi::Task& task) override;

 private:
  ScsiDevice& device_;
  const scsi::PortId port_;
  const scsi::NexusId nexus_;
  std::vector<std::byte> pending_data_;
  std::optional<ScsiAnswer> answer_;
  unsigned answers_ = 0;
};

// The TransportID of an iSCSI initiator port.
scsi::PortId test_port(const std::string& name);
scsi::Cdb cdb_of(std::initializer_list<unsigned> bytes);

}  // namespace tidepool::test
