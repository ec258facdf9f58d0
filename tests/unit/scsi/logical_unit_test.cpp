// A logical unit between a store that holds requests and initiators that abort, reset, take
// turns: what is answered, what is told to whom, what is stable.
#include <gtest/gtest.h>

#include "scsi/big_endian.h"
#include "tests/lib/fault_store.h"
#include "tests/lib/null_store.h"
#include "tests/lib/scsi_initiator.h"

namespace tidepool::scsi {
namespace {

using test::FaultStore;
using test::ReservationMemory;
using test::ScsiAnswer;
using test::ScsiDevice;
using test::ScsiInitiator;
using test::SimulatedStore;
using Bytes = std::vector<std::byte>;

constexpr std::uint64_t disk_bytes = 1 << 20;

Bytes registration(std::uint64_t key, std::uint64_t action_key, bool through_power_loss) {
  Bytes list(24);
  store_be64(&list[0], key);
  store_be64(&list[8], action_key);
  if (through_power_loss) list[20] = std::byte{1};
  return list;
}

ScsiInitiator::Command write_of(std::uint8_t block, std::uint8_t byte) {
  return {.cdb = test::cdb_of({0x2a, 0, 0, 0, 0, block, 0, 0, 1}),
          .data = Bytes(512, std::byte{byte})};
}

// A disk that cannot give space back.
class SolidStore final : public test::NullStore {
 public:
  using NullStore::NullStore;
  blockdev::Geometry geometry() const override { return {.size = NullStore::geometry().size}; }
};

class LogicalUnitTest : public testing::Test {
 protected:
  LogicalUnitTest() {
    simulated_ = SimulatedStore::open(disk_bytes);
    faults_ = std::make_shared<FaultStore>(simulated_);
    device_ = std::make_unique<ScsiDevice>(
        disk_bytes, ScsiDevice::Options{.store = faults_, .reservations = stored_});
  }
  ~LogicalUnitTest() override {
    faults_->clear();
    while (!device_->unit().idle()) EXPECT_TRUE(device_->loop().poll(true));
  }
  void turn_until_idle() {
    while (!device_->unit().idle()) ASSERT_TRUE(device_->loop().poll(true));
  }
  std::byte byte_at(std::uint64_t offset) {
    std::byte out{};
    simulated_->newest().read(offset, std::span(&out, 1));
    return out;
  }

  std::shared_ptr<ReservationMemory::Content> stored_ =
      std::make_shared<ReservationMemory::Content>();
  std::shared_ptr<SimulatedStore> simulated_;
  std::shared_ptr<FaultStore> faults_;
  std::unique_ptr<ScsiDevice> device_;
};

TEST_F(LogicalUnitTest, ANewNexusIsToldOfPowerOnAndAnotherOfItsLoss) {
  {
    ScsiInitiator first(*device_, "a", true);
    EXPECT_EQ(first.send({0x00}).code(), asc::power_on);
    EXPECT_EQ(first.send({0x00}).status, Status::good);
  }
  ScsiInitiator again(*device_, "a", true);
  EXPECT_EQ(again.send({0x00}).code(), asc::nexus_loss);
}

TEST_F(LogicalUnitTest, WhatNeedsThinProvisioningIsThereOnAThinUnitOnly) {
  ScsiDevice solid_device(disk_bytes, {.store = std::make_shared<SolidStore>(disk_bytes)});
  ScsiInitiator thin(*device_, "a"), solid(solid_device, "a");
  const Bytes nothing(8);
  EXPECT_EQ(thin.send({0x42, 0, 0, 0, 0, 0, 0, 0, 8}, nothing).status, Status::good);
  EXPECT_EQ(solid.send({0x42, 0, 0, 0, 0, 0, 0, 0, 8}, nothing).code(), asc::invalid_opcode);
  EXPECT_EQ(solid.send({0x48, 0x02}).code(), asc::invalid_field_in_cdb);  // BLOCK ERASE
  // REPORT SUPPORTED OPCODES: byte 1 says whether it is one.
  const auto supports = [](ScsiInitiator& initiator, std::uint8_t opcode, std::uint8_t action) {
    const auto answer = initiator.send({0xa3, 0x0c, 0x03, opcode, 0, action, 0, 0, 0, 64});
    return answer.data.size() > 1 && (answer.data[1] & std::byte{7}) == std::byte{3};
  };
  for (const auto& [opcode, action] : {std::pair<std::uint8_t, std::uint8_t>{0x42, 0}, {0x48, 2}}) {
    EXPECT_TRUE(supports(thin, opcode, action));
    EXPECT_FALSE(supports(solid, opcode, action));
  }
  EXPECT_TRUE(supports(solid, 0x48, 1));  // OVERWRITE
}

TEST_F(LogicalUnitTest, WhatOneChangesTheOtherIsToldOnce) {
  ScsiInitiator a(*device_, "a"), b(*device_, "b");
  // WCE off.
  Bytes list(24);
  list[4] = std::byte{0x08}, list[5] = std::byte{0x12};
  EXPECT_EQ(a.send({0x15, 0x10, 0, 0, 24}, list).status, Status::good);
  EXPECT_EQ(a.send({0x00}).status, Status::good);
  EXPECT_EQ(b.send({0x00}).code(), asc::mode_parameters_changed);
  EXPECT_EQ(b.send({0x00}).status, Status::good);
  device_->unit().reset(asc::bus_device_reset);
  EXPECT_EQ(a.send({0x00}).code(), asc::bus_device_reset);
  EXPECT_EQ(b.send({0x00}).code(), asc::bus_device_reset);
  EXPECT_EQ(b.send({0x00}).status, Status::good);
}

TEST_F(LogicalUnitTest, AnAbortedWriteIsNeverOverANewerOne) {
  ScsiInitiator a(*device_, "a"), b(*device_, "b");
  faults_->hold({.op = blockdev::IoOp::write}, FaultStore::HoldAt::submission, 1);
  const TaskId old = a.begin(write_of(3, 0x11));
  EXPECT_EQ(faults_->held(), 1u);
  EXPECT_TRUE(device_->unit().abort(old));
  EXPECT_TRUE(a.take().dropped);
  // The old one is not over: the new one waits for it.
  b.begin(write_of(3, 0x22));
  EXPECT_FALSE(b.done());
  faults_->release_all();
  turn_until_idle();
  EXPECT_TRUE(b.done());
  EXPECT_EQ(b.take().status, Status::good);
  EXPECT_EQ(byte_at(3 * 512), std::byte{0x22});
}

TEST_F(LogicalUnitTest, SavingDoesNotHoldUpOthersAndIsAnsweredWhenStable) {
  ScsiInitiator a(*device_, "a"), b(*device_, "b");
  a.begin({.cdb = test::cdb_of({0x5f, 0, 0, 0, 0, 0, 0, 0, 24}), .data = registration(0, 1, true)});
  EXPECT_FALSE(a.done()) << "it is being saved";
  EXPECT_FALSE(device_->unit().idle());
  EXPECT_EQ(b.send({0x00}).status, Status::good);
  turn_until_idle();
  ASSERT_TRUE(a.done());
  EXPECT_EQ(a.take().status, Status::good);
  EXPECT_EQ(stored_->state, device_->unit().reservations().state());
  EXPECT_TRUE(stored_->state.through_power_loss);
}

TEST_F(LogicalUnitTest, ChangesAreSavedOneAfterTheOther) {
  ScsiInitiator a(*device_, "a"), b(*device_, "b");
  a.begin({.cdb = test::cdb_of({0x5f, 0, 0, 0, 0, 0, 0, 0, 24}), .data = registration(0, 1, true)});
  b.begin({.cdb = test::cdb_of({0x5f, 0, 0, 0, 0, 0, 0, 0, 24}), .data = registration(0, 2, true)});
  turn_until_idle();
  ASSERT_TRUE(a.done() && b.done());
  EXPECT_EQ(a.take().status, Status::good);
  EXPECT_EQ(b.take().status, Status::good);
  EXPECT_EQ(stored_->state.registrants.size(), 2u);
  EXPECT_EQ(stored_->state, device_->unit().reservations().state());
}

TEST_F(LogicalUnitTest, AnAbortTakesNoSavedChangeBack) {
  ScsiInitiator a(*device_, "a");
  const TaskId id = a.begin(
      {.cdb = test::cdb_of({0x5f, 0, 0, 0, 0, 0, 0, 0, 24}), .data = registration(0, 1, true)});
  EXPECT_TRUE(device_->unit().abort(id));
  EXPECT_TRUE(a.take().dropped);
  turn_until_idle();
  EXPECT_EQ(stored_->state.registrants.size(), 1u);
  EXPECT_EQ(stored_->state, device_->unit().reservations().state());
}

TEST_F(LogicalUnitTest, WhatCannotBeSavedIsRefusedAndNotSo) {
  ScsiInitiator a(*device_, "a");
  stored_->fails = true;
  const ScsiAnswer answer = a.send({0x5f, 0, 0, 0, 0, 0, 0, 0, 24}, registration(0, 1, true));
  EXPECT_EQ(answer.status, Status::check_condition);
  EXPECT_EQ(answer.code(), asc::internal_target_failure);
  EXPECT_FALSE(device_->unit().reservations().any_registered());
}

TEST_F(LogicalUnitTest, LbaStatusTellsWhatIsThere) {
  ScsiInitiator a(*device_, "a");
  EXPECT_EQ(a.send(write_of(8, 1)).status, Status::good);
  const ScsiAnswer answer = a.send({0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0});
  ASSERT_EQ(answer.status, Status::good);
  ASSERT_GE(answer.data.size(), 24u);
  EXPECT_EQ(load_be32(&answer.data[0]) + 4, answer.data.size());
  // The descriptors cover the unit without a gap, and block 8 is mapped.
  std::uint64_t next = 0;
  bool mapped = false;
  for (std::size_t at = 8; at < answer.data.size(); at += 16) {
    EXPECT_EQ(load_be64(&answer.data[at]), next);
    const std::uint64_t end = next + load_be32(&answer.data[at + 8]);
    if (next <= 8 && 8 < end) mapped = (answer.data[at + 12] & std::byte{0x0f}) == std::byte{0};
    next = end;
  }
  EXPECT_EQ(next, disk_bytes / 512);
  EXPECT_TRUE(mapped);
}

TEST_F(LogicalUnitTest, SanitizeGoesOnThroughAbortAndReset) {
  ScsiInitiator a(*device_, "a"), b(*device_, "b");
  EXPECT_EQ(a.send(write_of(2, 0x55)).status, Status::good);
  faults_->hold({.op = blockdev::IoOp::write}, FaultStore::HoldAt::submission, 1);
  Bytes list(8, std::byte{0xaa});
  list[0] = std::byte{1}, list[1] = list[2] = std::byte{0}, list[3] = std::byte{4};
  a.begin({.cdb = test::cdb_of({0x48, 0x01, 0, 0, 0, 0, 0, 0, 8}), .data = list});
  EXPECT_FALSE(a.done());
  EXPECT_EQ(b.send({0x00}).code(), asc::sanitize_in_progress);
  EXPECT_EQ(b.send({0x12, 0, 0, 0, 96}).status, Status::good);
  device_->unit().reset(asc::bus_device_reset);
  EXPECT_TRUE(a.take().dropped);
  EXPECT_EQ(b.send({0x00}).code(), asc::bus_device_reset);
  EXPECT_EQ(b.send({0x00}).code(), asc::sanitize_in_progress);
  faults_->release_all();
  turn_until_idle();
  EXPECT_EQ(b.send({0x00}).status, Status::good);
  for (const std::uint64_t at : {std::uint64_t{0}, std::uint64_t{2 * 512}, disk_bytes - 1})
    EXPECT_EQ(byte_at(at), std::byte{0xaa});
}

}  // namespace
}  // namespace tidepool::scsi
