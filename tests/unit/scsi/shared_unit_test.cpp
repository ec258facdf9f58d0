// One unit of two hosts over one store: what a change of the reservations, a hold and a reset by
// way of one host mean for what is under way, and for initiators, at the other.
//
// The hosts are joined by a state in memory, that is settled once both have acknowledged it.
#include <gtest/gtest.h>

#include <deque>

#include "scsi/big_endian.h"
#include "scsi/shared_part.h"
#include "tests/lib/fault_store.h"
#include "tests/lib/scsi_initiator.h"

namespace tidepool::scsi {
namespace {

using blockdev::lease::SharedState;
using blockdev::lease::Sharing;
using test::FaultStore;
using test::ScsiAnswer;
using test::ScsiDevice;
using test::ScsiInitiator;
using Bytes = std::vector<std::byte>;

class Hosts {
 public:
  // For tests that must go red: nobody waits for acknowledgements.
  bool careless = false;
  blockdev::WritePermit permit = blockdev::WritePermit::yes;

  Hosts() {
    state_.number = 1;
    for (Host& host : hosts_) host.hosts = this;
    hosts_[0].id = {1}, hosts_[1].id = {2};
    for (const Host& host : hosts_) state_.members.push_back({.id = host.id});
  }
  Sharing& operator[](std::size_t index) { return hosts_[index]; }
  const SharedState& state() const { return state_; }

 private:
  struct Host final : Sharing {
    Hosts* hosts = nullptr;
    Uuid id{};
    Follow follower;
    std::uint64_t acknowledged = 0;

    const Uuid& self() const override { return id; }
    blockdev::WritePermit permit() const override { return hosts->permit; }
    void change(Edit edit, Done done) override {
      hosts->changes_.push_back({std::move(edit), std::move(done)});
      hosts->pump();
    }
    void follow(Follow follow) override {
      follower = std::move(follow);
      if (follower) follower(hosts->state_);
    }
    void acknowledge(std::uint64_t number) override {
      acknowledged = std::max(acknowledged, number);
      hosts->pump();
    }
  };
  struct Change {
    Sharing::Edit edit;
    Sharing::Done done;
    std::uint64_t number = 0;
  };

  std::uint64_t settled() const {
    return careless ? state_.number : std::min(hosts_[0].acknowledged, hosts_[1].acknowledged);
  }
  void pump() {
    for (Change& change : changes_) {
      if (change.number != 0) continue;
      SharedState next = state_;
      ++next.number;
      const Sharing::Edited edited = change.edit(next, settled());
      if (edited == Sharing::Edited::later) continue;
      if (edited == Sharing::Edited::changed) {
        state_ = next;
        for (const Host& host : hosts_) host.follower(state_);
      }
      change.number = state_.number;
    }
    std::erase_if(changes_, [&](const Change& change) {
      if (change.number == 0 || change.number > settled()) return false;
      change.done(true);
      return true;
    });
  }

  std::array<Host, 2> hosts_;
  SharedState state_;
  std::deque<Change> changes_;
};

constexpr std::uint64_t key_a = 0xa1, key_b = 0xb2;

class SharedUnit : public testing::Test {
 protected:
  SharedUnit()
      : simulated_(test::SimulatedStore::open(1 << 20)),
        faults_(std::make_shared<FaultStore>(simulated_)),
        one_(1 << 20, options(0)),
        other_(1 << 20, options(1)),
        a(one_, "a"),
        b(other_, "b") {}
  ~SharedUnit() override {
    faults_->clear();
    turn_until([&] { return one_.unit().idle() && other_.unit().idle(); });
  }

  ScsiDevice::Options options(std::size_t host) {
    return {.threads = threads_,
            .store = faults_,
            .reservations = nullptr,
            .unit = {.sharing = &hosts_[host]}};
  }
  void turn_until(const std::function<bool()>& over) {
    while (!over()) ASSERT_TRUE(threads_->loop->poll(true));
  }
  // What has been posted is done.
  void turn() {
    for (int i = 0; i < 20; ++i) ASSERT_TRUE(threads_->loop->poll(false));
  }
  static ScsiInitiator::Command reserve_out(unsigned action, unsigned type, std::uint64_t key,
                                            std::uint64_t action_key) {
    Bytes list(24);
    store_be64(&list[0], key);
    store_be64(&list[8], action_key);
    return {.cdb = test::cdb_of({0x5f, action, type, 0, 0, 0, 0, 0, 24}), .data = list};
  }
  static ScsiInitiator::Command write(unsigned block) {
    return {.cdb = test::cdb_of({0x2a, 0, 0, 0, 0, block, 0, 0, 1}), .data = Bytes(512)};
  }
  void reserve(unsigned type) {
    EXPECT_EQ(a.send(reserve_out(0, 0, 0, key_a)).status, Status::good);
    EXPECT_EQ(b.send(reserve_out(0, 0, 0, key_b)).status, Status::good);
    EXPECT_EQ(a.send(reserve_out(1, type, key_a, 0)).status, Status::good);
  }

  Hosts hosts_;
  std::shared_ptr<ScsiDevice::Threads> threads_ = std::make_shared<ScsiDevice::Threads>();
  std::shared_ptr<test::SimulatedStore> simulated_;
  std::shared_ptr<FaultStore> faults_;
  ScsiDevice one_, other_;

 public:
  ScsiInitiator a, b;
};

TEST_F(SharedUnit, AReservationHoldsAtBothHosts) {
  reserve(1);
  EXPECT_EQ(b.send(write(0)).status, Status::reservation_conflict);
  EXPECT_EQ(a.send(write(0)).status, Status::good);
  EXPECT_EQ(b.send(reserve_out(4, 1, key_b, key_a)).status, Status::good);
  EXPECT_EQ(a.send({0x00}).code(), asc::registrations_preempted);
  EXPECT_EQ(a.send(write(0)).status, Status::reservation_conflict);
  EXPECT_EQ(b.send(write(0)).status, Status::good);
}

// Whether b's PREEMPT is answered while a's write is with the store.
bool preempts_over_a_write(SharedUnit& test, FaultStore& faults, ScsiInitiator::Command write,
                           ScsiInitiator::Command preempt, const std::function<void()>& turn) {
  faults.hold({.op = blockdev::IoOp::write}, FaultStore::HoldAt::submission, 1);
  test.a.begin(write);
  faults.wait_for_held(1);
  test.b.begin(preempt);
  turn();
  return test.b.done();
}

TEST_F(SharedUnit, PreemptWaitsForTheOtherHostsWrites) {
  reserve(1);
  EXPECT_FALSE(preempts_over_a_write(*this, *faults_, write(0), reserve_out(4, 1, key_b, key_a),
                                     [&] { turn(); }));
  faults_->release_all();
  turn_until([&] { return a.done() && b.done(); });
  EXPECT_EQ(a.take().status, Status::good);
  EXPECT_EQ(b.take().status, Status::good);
}

TEST_F(SharedUnit, WithoutAcknowledgementsItDoesNot) {
  hosts_.careless = true;
  reserve(1);
  EXPECT_TRUE(preempts_over_a_write(*this, *faults_, write(0), reserve_out(4, 1, key_b, key_a),
                                    [&] { turn(); }));
}

TEST_F(SharedUnit, ATaskOfSeveralRequestsEndsWhereItIsForbidden) {
  reserve(1);
  faults_->hold({.op = blockdev::IoOp::write}, FaultStore::HoldAt::submission, 1);
  // WRITE AND VERIFY: what is written is read then.
  a.begin({.cdb = test::cdb_of({0x2e, 0, 0, 0, 0, 0, 0, 0, 1}), .data = Bytes(512)});
  faults_->wait_for_held(1);
  b.begin(reserve_out(4, 3, key_b, key_a));
  turn();
  faults_->release_all();
  turn_until([&] { return a.done() && b.done(); });
  EXPECT_EQ(a.take().status, Status::reservation_conflict);
  EXPECT_EQ(b.take().status, Status::good);
}

TEST_F(SharedUnit, PreemptAndAbortEndsTasksAtTheOtherHost) {
  reserve(1);
  faults_->hold({.op = blockdev::IoOp::write}, FaultStore::HoldAt::submission, 1);
  a.begin(write(0));
  faults_->wait_for_held(1);
  b.begin(reserve_out(5, 1, key_b, key_a));
  turn();
  EXPECT_TRUE(a.done()) << "it is aborted";
  EXPECT_TRUE(a.take().dropped);
  EXPECT_FALSE(b.done()) << "what the store still does for it is waited for";
  faults_->release_all();
  turn_until([&] { return b.done(); });
  EXPECT_EQ(b.take().status, Status::good);
}

TEST_F(SharedUnit, CompareAndWriteKeepsTheOtherHostOffItsBlocks) {
  faults_->hold({.op = blockdev::IoOp::read}, FaultStore::HoldAt::completion, 1);
  a.begin(
      {.cdb = test::cdb_of({0x89, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1}), .data = Bytes(1024)});
  turn_until([&] { return faults_->held() == 1; });
  ASSERT_EQ(hosts_.state().holds.size(), 1U);
  EXPECT_EQ(hosts_.state().holds[0].begin, 4U * 512);
  b.begin(write(4));
  turn();
  EXPECT_FALSE(b.done()) << "a write gets between reading and writing";
  ScsiInitiator c(other_, "c");
  EXPECT_EQ(c.send(write(5)).status, Status::good);
  faults_->release_all();
  turn_until([&] { return a.done() && b.done(); });
  EXPECT_EQ(a.take().status, Status::good);
  EXPECT_EQ(b.take().status, Status::good);
  turn();
  EXPECT_TRUE(hosts_.state().holds.empty());
}

TEST_F(SharedUnit, WhatIsHeldOffCanBeAborted) {
  faults_->hold({.op = blockdev::IoOp::read}, FaultStore::HoldAt::completion, 1);
  a.begin(
      {.cdb = test::cdb_of({0x89, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1}), .data = Bytes(1024)});
  turn_until([&] { return faults_->held() == 1; });
  const TaskId id = b.begin(write(4));
  turn();
  EXPECT_TRUE(other_.unit().abort(id));
  EXPECT_TRUE(b.take().dropped);
  one_.unit().abort_tasks_of(a.nexus());
  faults_->release_all();
  turn_until([&] { return one_.unit().idle() && other_.unit().idle(); });
  EXPECT_TRUE(hosts_.state().holds.empty());
}

TEST_F(SharedUnit, AResetIsTheOtherHostsToo) {
  faults_->hold({.op = blockdev::IoOp::write}, FaultStore::HoldAt::submission, 1);
  b.begin(write(0));
  faults_->wait_for_held(1);
  one_.unit().reset(asc::bus_device_reset);
  turn();
  EXPECT_TRUE(b.take().dropped);
  EXPECT_EQ(b.send({0x00}).code(), asc::bus_device_reset);
  EXPECT_EQ(a.send({0x00}).code(), asc::bus_device_reset);
  EXPECT_EQ(a.send({0x00}).status, Status::good) << "once";
}

TEST_F(SharedUnit, HasNothingThatConcernsOneHostOnly) {
  for (const unsigned opcode : {0x16U, 0x17U, 0x56U, 0x57U})
    EXPECT_EQ(a.send({opcode}).code(), asc::invalid_opcode);
  for (const unsigned action : {0x01U, 0x03U, 0x1fU})
    EXPECT_EQ(a.send({0x48, action}).code(), asc::invalid_opcode);
  // The write cache is off, and stays so.
  const ScsiAnswer caching = a.send({0x1a, 0x08, 0x08, 0, 255});
  ASSERT_GE(caching.data.size(), 7U);
  EXPECT_EQ(load_be8(&caching.data[6]) & 0x04, 0);
  const ScsiAnswer changeable = a.send({0x1a, 0x08, 0x48, 0, 255});
  EXPECT_EQ(load_be8(&changeable.data[6]) & 0x04, 0);
}

TEST_F(SharedUnit, TellsNoReservationsThatOthersMayHaveChanged) {
  EXPECT_EQ(a.send({0x5e, 0, 0, 0, 0, 0, 0, 0, 64}).status, Status::good);
  hosts_.permit = blockdev::WritePermit::not_now;
  EXPECT_EQ(a.send({0x5e, 0, 0, 0, 0, 0, 0, 0, 64}).status, Status::busy);
  hosts_.permit = blockdev::WritePermit::yes;
}

TEST(SharedPart, SurvivesItsEncoding) {
  SharedPart part;
  EXPECT_EQ(decode_shared_part(encode_shared_part(part)).value(), part);
  EXPECT_EQ(decode_shared_part({}).value(), part);
  part.reservations = {.generation = 3, .type = ReservationType::write_exclusive, .holder = "a"};
  part.reservations.registrants = {{.port = "a", .key = 1}, {.port = "b", .key = 2}};
  part.effects.push_back({.kind = SharedEffect::Kind::abort, .number = 7, .task = 5, .port = "b"});
  for (const bool persists : {false, true}) {
    part.reservations.through_power_loss = persists;
    EXPECT_EQ(decode_shared_part(encode_shared_part(part)).value(), part);
  }
  const auto encoded = encode_shared_part(part);
  for (std::size_t length = 1; length < encoded.size(); ++length)
    EXPECT_FALSE(decode_shared_part(std::span(encoded).first(length))) << length;
}

}  // namespace
}  // namespace tidepool::scsi
