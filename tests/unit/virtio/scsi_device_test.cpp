// The SCSI adapter driven through its queues, by two drivers at a time. The judges: what the
// standards say of each answer, and the store's content.
#include "virtio/scsi_device.h"

#include "tests/lib/fault_store.h"
#include "tests/lib/scsi_initiator.h"
#include "tests/lib/simulated_store.h"
#include "tests/unit/virtio/scsi_driver.h"

namespace tidepool::virtio {
namespace {

using scsi::asc::bus_device_reset, scsi::asc::nexus_loss, scsi::asc::power_on;
using test::Bytes;
using test::FaultStore;
using test::ScsiAnswered;
using test::ScsiDriver;
using test::SimulatedStore;

constexpr std::uint64_t disk_bytes = 64 << 20;
constexpr unsigned function_complete = 0;
constexpr unsigned good = 0, check_condition = 2, reservation_conflict = 0x18;

class ScsiDeviceTest : public testing::Test {
 protected:
  ScsiDeviceTest() {
    target_ = *scsi::DeviceThread::start();
    // Unit 1 has nothing that keeps reservations.
    for (std::uint16_t number = 0; number < 2; ++number) {
      std::unique_ptr<scsi::ReservationStorage> storage;
      if (number == 0) {
        storage = std::make_unique<test::ReservationMemory>(
            std::make_shared<test::ReservationMemory::Content>());
      }
      auto added = target_->add(number, faults_, std::move(storage), {});
      EXPECT_TRUE(added) << added.error().message;
    }
    a_.emplace(*target_, "a");
    b_.emplace(*target_, "b");
    EXPECT_EQ(a_->attentions(), std::vector<unsigned>{power_on});
    EXPECT_EQ(b_->attentions(), std::vector<unsigned>{power_on});
  }
  ~ScsiDeviceTest() override {
    faults_->clear();
    a_.reset();
    b_.reset();
  }
  Bytes stored(std::uint64_t block, std::size_t count = 512) {
    Bytes out(count);
    simulated_->newest().read(block * 512, out);
    return out;
  }
  static ScsiDriver::Command write_of(unsigned block, std::uint8_t value, std::uint64_t id = 1) {
    return {
        .cdb = {0x2a, 0, 0, 0, 0, block, 0, 0, 1}, .out = Bytes(512, std::byte{value}), .id = id};
  }

  const std::shared_ptr<SimulatedStore> simulated_ = SimulatedStore::open(disk_bytes);
  const std::shared_ptr<FaultStore> faults_ = std::make_shared<FaultStore>(simulated_);
  std::unique_ptr<scsi::DeviceThread> target_;
  std::optional<ScsiDriver> a_, b_;
};

TEST_F(ScsiDeviceTest, MovesDataBothWays) {
  Bytes data(3 * 512);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i * 7);
  for (const unsigned queue : {ScsiDriver::requests, ScsiDriver::requests + 1}) {
    const auto written =
        a_->run({.cdb = {0x2a, 0, 0, 0, 0, queue, 0, 0, 3}, .out = data, .queue = queue});
    EXPECT_EQ(written.response, 0U);
    EXPECT_EQ(written.status, good);
    EXPECT_EQ(written.residual, 0U);
    EXPECT_EQ(written.written, scsi_response_bytes);
    EXPECT_EQ(stored(queue, data.size()), data);
    const auto read = a_->run({.cdb = {0x28, 0, 0, 0, 0, queue, 0, 0, 3}, .in = 3 * 512});
    EXPECT_EQ(read.response, 0U);
    EXPECT_EQ(read.residual, 0U);
    EXPECT_EQ(read.data, data);
  }
}

TEST_F(ScsiDeviceTest, CountsWhatWasNotMoved) {
  const auto inquiry = a_->run({.cdb = {0x12, 0, 0, 1, 0}, .in = 256});
  ASSERT_EQ(inquiry.status, good);
  EXPECT_EQ(inquiry.data.size() + inquiry.residual, 256U);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(&inquiry.data[8]), 8), "TIDEPOOL");
  // More was sent than is written.
  auto surplus = write_of(4, 0x44);
  surplus.out.resize(1024, std::byte{0x55});
  const auto written = a_->run(surplus);
  EXPECT_EQ(written.response, 0U);
  EXPECT_EQ(written.residual, 512U);
  EXPECT_EQ(stored(5), Bytes(512));
  // Less room, and less data, than the command moves: never taken for success.
  EXPECT_EQ(a_->run({.cdb = {0x28, 0, 0, 0, 0, 4, 0, 0, 2}, .in = 512}).response,
            unsigned{VIRTIO_SCSI_S_OVERRUN});
  EXPECT_EQ(a_->run({.cdb = {0x2a, 0, 0, 0, 0, 8, 0, 0, 2}, .out = Bytes(512)}).response,
            unsigned{VIRTIO_SCSI_S_OVERRUN});
  EXPECT_EQ(a_->run({.cdb = {0x28, 0, 0, 0, 0, 4, 0, 0, 2}}).response,
            unsigned{VIRTIO_SCSI_S_OVERRUN});
}

TEST_F(ScsiDeviceTest, TellsWhatIsWrong) {
  const auto beyond = a_->run({.cdb = {0x28, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 1}, .in = 512});
  EXPECT_EQ(beyond.response, 0U);
  EXPECT_EQ(beyond.status, check_condition);
  EXPECT_EQ(beyond.key(), 5U);
  EXPECT_EQ(beyond.code(), scsi::asc::lba_out_of_range);
  EXPECT_EQ(beyond.residual, 512U);
  EXPECT_EQ(a_->run({.cdb = {0x7f}}).code(), scsi::asc::invalid_opcode);
  faults_->fail({}, EIO);
  EXPECT_EQ(a_->run({.cdb = {0x28, 0, 0, 0, 0, 0, 0, 0, 1}, .in = 512}).key(), 3U);
}

TEST_F(ScsiDeviceTest, KnowsItsUnits) {
  EXPECT_EQ(a_->attentions(1), std::vector<unsigned>{power_on});
  EXPECT_EQ(a_->run({.cdb = {0x00}, .lun = 2}).code(), scsi::asc::logical_unit_not_supported);
  EXPECT_EQ(a_->run({.cdb = {0x00}, .target = 1}).response, unsigned{VIRTIO_SCSI_S_BAD_TARGET});
  const auto list = a_->run({.cdb = {0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0}, .in = 256});
  ASSERT_EQ(list.data.size(), 24U);
  EXPECT_EQ(scsi::load_be32(list.data.data()), 16U);
  EXPECT_EQ(scsi::load_be16(&list.data[16]), 1U);
}

TEST_F(ScsiDeviceTest, RefusesDataInBothDirections) {
  auto both = write_of(3, 0x33);
  both.in = 512;
  EXPECT_EQ(a_->run(both).response, unsigned{VIRTIO_SCSI_S_FAILURE});
  EXPECT_EQ(stored(3), Bytes(512));
}

// What an initiator reserves keeps the other one out, also when its guest is booted again.
TEST_F(ScsiDeviceTest, IsAnInitiatorOfItsOwn) {
  Bytes list(24);
  scsi::store_be64(&list[8], 0x11);
  ASSERT_EQ(a_->run({.cdb = {0x5f, 0, 0, 0, 0, 0, 0, 0, 24}, .out = list}).status, good);
  scsi::store_be64(&list[0], 0x11);
  ASSERT_EQ(a_->run({.cdb = {0x5f, 1, 1, 0, 0, 0, 0, 0, 24}, .out = list}).status, good);
  EXPECT_EQ(b_->run(write_of(1, 0xbb)).status, reservation_conflict);
  EXPECT_EQ(a_->run(write_of(1, 0xaa)).status, good);
  a_->begin_anew();
  EXPECT_EQ(a_->attentions(), std::vector<unsigned>{nexus_loss});
  EXPECT_EQ(a_->run(write_of(1, 0xac)).status, good);
  EXPECT_EQ(b_->run(write_of(1, 0xbb)).status, reservation_conflict);
  {
    // The twin: with the same port it would be the same initiator.
    ScsiDriver same(*target_, "a");
    EXPECT_EQ(same.attentions(), std::vector<unsigned>{nexus_loss});
    EXPECT_EQ(same.run(write_of(1, 0xad)).status, good);
  }
  // Each other's doing is told once.
  EXPECT_EQ(a_->manage(VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET), function_complete);
  EXPECT_EQ(b_->attentions(), std::vector<unsigned>{bus_device_reset});
  EXPECT_EQ(a_->attentions(), std::vector<unsigned>{bus_device_reset});
}

TEST_F(ScsiDeviceTest, SaysWhetherReservationsPersist) {
  a_->attentions(1);
  Bytes list(24);
  scsi::store_be64(&list[8], 0x11);
  list[20] = std::byte{1};  // APTPL
  for (const unsigned lun : {0U, 1U}) {
    const auto capabilities = a_->run({.cdb = {0x5e, 2, 0, 0, 0, 0, 0, 0, 8}, .in = 8, .lun = lun});
    ASSERT_EQ(capabilities.data.size(), 8U);
    EXPECT_EQ(scsi::load_be8(&capabilities.data[2]) & 1, lun == 0 ? 1 : 0);
    const auto asked = a_->run({.cdb = {0x5f, 0, 0, 0, 0, 0, 0, 0, 24}, .out = list, .lun = lun});
    EXPECT_EQ(asked.status, lun == 0 ? good : check_condition);
    if (lun == 1) {
      EXPECT_EQ(asked.code(), scsi::asc::invalid_field_in_parameter_list);
    }
  }
}

// A stop in the middle of its life, as when a front end moves an interrupt, is nothing that
// the driver sees.
TEST_F(ScsiDeviceTest, GoesOnWhereItWasStopped) {
  ASSERT_EQ(a_->run({.cdb = {0x16, 0, 0, 0, 0, 0}}).status, good);  // RESERVE
  a_->device().reset();
  a_->start(a_->device().positions()[ScsiDriver::requests]);
  EXPECT_TRUE(a_->attentions().empty());
  EXPECT_EQ(b_->run({.cdb = {0x00}}).status, reservation_conflict);
}

TEST_F(ScsiDeviceTest, AnswersWhatIsAborted) {
  faults_->hold({.op = blockdev::IoOp::write}, FaultStore::HoldAt::submission);
  const auto first = a_->ask(write_of(7, 0x71, 70)), second = a_->ask(write_of(8, 0x81, 80));
  faults_->wait_for_held(2);
  EXPECT_EQ(a_->manage(VIRTIO_SCSI_T_TMF_QUERY_TASK, 0, 70),
            unsigned{VIRTIO_SCSI_S_FUNCTION_SUCCEEDED});
  EXPECT_EQ(a_->manage(VIRTIO_SCSI_T_TMF_QUERY_TASK, 1, 70), function_complete);
  EXPECT_EQ(a_->manage(VIRTIO_SCSI_T_TMF_ABORT_TASK, 0, 70), function_complete);
  const auto aborted = a_->take(first);
  ASSERT_TRUE(aborted);
  EXPECT_EQ(aborted->response, unsigned{VIRTIO_SCSI_S_ABORTED});
  EXPECT_FALSE(a_->take(second, 20));
  // A newer write waits until the aborted one is truly over.
  const auto newer = a_->ask(write_of(7, 0x72, 71));
  EXPECT_FALSE(a_->take(newer, 20));
  faults_->release_all();
  EXPECT_EQ(a_->take(newer).value_or(ScsiAnswered{}).status, good);
  EXPECT_EQ(a_->take(second).value_or(ScsiAnswered{}).status, good);
  EXPECT_EQ(stored(7)[0], std::byte{0x72});
  EXPECT_EQ(a_->manage(VIRTIO_SCSI_T_TMF_ABORT_TASK, 0, 70), function_complete);
}

TEST_F(ScsiDeviceTest, AnswersWhatIsReset) {
  struct Case {
    std::uint32_t function;
    unsigned own;                     // what a's request is answered
    std::optional<unsigned> others;   // b's; nothing: it goes on
    std::vector<unsigned> attention;  // of a
  };
  for (const Case& one : {
           Case{VIRTIO_SCSI_T_TMF_ABORT_TASK_SET, VIRTIO_SCSI_S_ABORTED, {}, {}},
           Case{VIRTIO_SCSI_T_TMF_CLEAR_TASK_SET, VIRTIO_SCSI_S_ABORTED, VIRTIO_SCSI_S_ABORTED, {}},
           Case{VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET,
                VIRTIO_SCSI_S_RESET,
                VIRTIO_SCSI_S_RESET,
                {bus_device_reset}},
           Case{VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET, VIRTIO_SCSI_S_RESET, {}, {nexus_loss}},
       }) {
    SCOPED_TRACE(one.function);
    faults_->hold({.op = blockdev::IoOp::write}, FaultStore::HoldAt::submission);
    const auto own = a_->ask(write_of(7, 1)), others = b_->ask(write_of(9, 2));
    faults_->wait_for_held(2);
    EXPECT_EQ(a_->manage(one.function), function_complete);
    EXPECT_EQ(a_->take(own).value_or(ScsiAnswered{}).response, one.own);
    if (one.others) {
      // What another initiator did is told by the attention.
      EXPECT_EQ(b_->take(others).value_or(ScsiAnswered{}).response, unsigned{VIRTIO_SCSI_S_RESET});
    }
    faults_->release_all();
    if (!one.others) {
      EXPECT_EQ(b_->take(others).value_or(ScsiAnswered{}).status, good);
    }
    EXPECT_EQ(a_->attentions(), one.attention);
    b_->attentions();
  }
  EXPECT_EQ(a_->manage(VIRTIO_SCSI_T_TMF_CLEAR_ACA), unsigned{VIRTIO_SCSI_S_FUNCTION_REJECTED});
  EXPECT_EQ(a_->manage(VIRTIO_SCSI_T_TMF_ABORT_TASK, 5), unsigned{VIRTIO_SCSI_S_INCORRECT_LUN});
  EXPECT_EQ(a_->manage(VIRTIO_SCSI_T_TMF_ABORT_TASK, 0, 1, 3), unsigned{VIRTIO_SCSI_S_BAD_TARGET});
}

// 30 MiB each: the third waits, and can be aborted while it does.
TEST_F(ScsiDeviceTest, HoldsBackWhatIsTooMuch) {
  faults_->hold({.op = blockdev::IoOp::read}, FaultStore::HoldAt::submission);
  std::vector<ScsiDriver::Asked> asked;
  for (std::uint64_t id = 0; id < 3; ++id) {
    asked.push_back(a_->ask({.cdb = {0x28, 0, 0, 0, 0, 0, 0, 0xf0, 0}, .in = 30 << 20, .id = id}));
  }
  faults_->wait_for_held(2);
  EXPECT_EQ(a_->manage(VIRTIO_SCSI_T_TMF_QUERY_TASK, 0, 2),
            unsigned{VIRTIO_SCSI_S_FUNCTION_SUCCEEDED});
  EXPECT_EQ(faults_->held(), 2U);
  EXPECT_EQ(a_->manage(VIRTIO_SCSI_T_TMF_ABORT_TASK, 0, 2), function_complete);
  EXPECT_EQ(a_->take(asked[2]).value_or(ScsiAnswered{}).response, unsigned{VIRTIO_SCSI_S_ABORTED});
  faults_->release_all();
  for (const unsigned i : {0U, 1U}) {
    const auto answer = a_->take(asked[i]);
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->status, good);
    EXPECT_EQ(answer->written, scsi_response_bytes + (30U << 20));
  }
}

TEST_F(ScsiDeviceTest, HasNoEvents) {
  a_->offer_events();
  const std::uint64_t header = a_->memory().take(16), answer = a_->memory().take(5);
  for (const std::uint32_t type : {VIRTIO_SCSI_T_AN_QUERY, VIRTIO_SCSI_T_AN_SUBSCRIBE}) {
    a_->memory().put<std::uint32_t>(header, type);
    a_->memory().put<std::uint64_t>(header + 4, 1);
    a_->memory().put<std::uint32_t>(header + 12, ~std::uint32_t{0});
    a_->memory().put<std::uint32_t>(answer, ~std::uint32_t{0});
    EXPECT_EQ(a_->send_control({{header, 16, false}, {answer, 5, true}}, answer + 4), 0U);
    EXPECT_EQ(a_->memory().get<std::uint32_t>(answer), 0U);
  }
  EXPECT_EQ(a_->run({.cdb = {0x00}}).status, good);
}

TEST_F(ScsiDeviceTest, BreaksOnWhatCannotBeAnswered) {
  const std::uint64_t at = a_->memory().take(256);
  a_->add(ScsiDriver::requests, {{at, scsi_request_bytes - 1, false}, {at, 128, true}});
  EXPECT_NE(a_->broken().find("without a header"), std::string::npos);
  b_->add(ScsiDriver::requests, {{at, 64, false}, {at, scsi_response_bytes - 1, true}});
  EXPECT_NE(b_->broken().find("without room"), std::string::npos);
}

}  // namespace
}  // namespace tidepool::virtio
