// What each command and each service action of PERSISTENT RESERVE OUT may do against each of
// the six types of persistent reservation, from two initiators.
//
// The judge is a table written from the standards (SPC-4 5.13.1, SBC-3 4.17), a letter for
// each of their columns; the command table of the product is not looked at.
#include <gtest/gtest.h>

#include "scsi/big_endian.h"
#include "tests/lib/scsi_initiator.h"

namespace tidepool::scsi {
namespace {

using test::ScsiAnswer;
using test::ScsiDevice;
using test::ScsiInitiator;
using Bytes = std::vector<std::byte>;

constexpr unsigned write_exclusive = 1, exclusive_access = 3, write_exclusive_registrants = 5,
                   exclusive_access_registrants = 6, write_exclusive_all = 7,
                   exclusive_access_all = 8;
constexpr unsigned types[] = {write_exclusive,
                              exclusive_access,
                              write_exclusive_registrants,
                              exclusive_access_registrants,
                              write_exclusive_all,
                              exclusive_access_all};

// A: allowed, C: conflict. In order: write exclusive held by another, exclusive access held by
// another (both from any nexus), registrants only and all registrants from one that is
// registered, write exclusive and exclusive access of registrants from one that is not.
struct Row {
  const char* name;
  const char* columns;
  std::initializer_list<unsigned> cdb;
  std::size_t data = 0;  // bytes of data-out
};

const Row rows[] = {
    {"TEST UNIT READY", "AAAAA", {0x00}},
    {"REQUEST SENSE", "AAAAA", {0x03, 0, 0, 0, 18}},
    {"INQUIRY", "AAAAA", {0x12, 0, 0, 0, 96}},
    {"MODE SELECT(6)", "CCACC", {0x15, 0x10, 0, 0, 4}, 4},
    {"MODE SELECT(10)", "CCACC", {0x55, 0x10, 0, 0, 0, 0, 0, 0, 8}, 8},
    {"MODE SENSE(6)", "CCACC", {0x1a, 0, 0x3f, 0, 255}},
    {"MODE SENSE(10)", "CCACC", {0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 255}},
    {"START STOP UNIT, start", "AAAAA", {0x1b, 0, 0, 0, 1}},
    {"START STOP UNIT, stop", "CCACC", {0x1b, 0, 0, 0, 0}},
    {"START STOP UNIT, a power condition", "CCACC", {0x1b, 0, 0, 0, 0x11}},
    {"PREVENT ALLOW, allow", "AAAAA", {0x1e}},
    {"PREVENT ALLOW, prevent", "CCACC", {0x1e, 0, 0, 0, 1}},
    {"READ CAPACITY(10)", "AAAAA", {0x25}},
    {"READ CAPACITY(16)", "AAAAA", {0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32}},
    {"GET LBA STATUS", "ACAAC", {0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32}},
    {"REPORT LUNS", "AAAAA", {0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64}},
    {"REPORT SUPPORTED OPERATION CODES", "ACAAC", {0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 1, 0}},
    {"REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS", "ACAAC", {0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 0, 16}},
    {"READ(6)", "ACAAC", {0x08, 0, 0, 0, 1}},
    {"READ(10)", "ACAAC", {0x28, 0, 0, 0, 0, 0, 0, 0, 1}},
    {"READ(12)", "ACAAC", {0xa8, 0, 0, 0, 0, 0, 0, 0, 0, 1}},
    {"READ(16)", "ACAAC", {0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}},
    {"VERIFY(10)", "ACAAC", {0x2f, 0, 0, 0, 0, 0, 0, 0, 1}},
    {"VERIFY(12)", "ACAAC", {0xaf, 0, 0, 0, 0, 0, 0, 0, 0, 1}},
    {"VERIFY(16)", "ACAAC", {0x8f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}},
    {"PRE-FETCH(10)", "ACAAC", {0x34, 0, 0, 0, 0, 0, 0, 0, 1}},
    {"PRE-FETCH(16)", "ACAAC", {0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}},
    {"READ DEFECT DATA(10)", "ACAAC", {0x37, 0, 0x08, 0, 0, 0, 0, 0, 8}},
    {"READ DEFECT DATA(12)", "ACAAC", {0xb7, 0x08, 0, 0, 0, 0, 0, 0, 0, 8}},
    {"WRITE(6)", "CCACC", {0x0a, 0, 0, 0, 1}, 512},
    {"WRITE(10)", "CCACC", {0x2a, 0, 0, 0, 0, 0, 0, 0, 1}, 512},
    {"WRITE(12)", "CCACC", {0xaa, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 512},
    {"WRITE(16)", "CCACC", {0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 512},
    {"WRITE AND VERIFY(10)", "CCACC", {0x2e, 0, 0, 0, 0, 0, 0, 0, 1}, 512},
    {"WRITE AND VERIFY(12)", "CCACC", {0xae, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 512},
    {"WRITE AND VERIFY(16)", "CCACC", {0x8e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 512},
    {"COMPARE AND WRITE", "CCACC", {0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 1024},
    {"ORWRITE(16)", "CCACC", {0x8b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 512},
    {"WRITE SAME(10)", "CCACC", {0x41, 0, 0, 0, 0, 0, 0, 0, 1}, 512},
    {"WRITE SAME(16)", "CCACC", {0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 512},
    {"UNMAP", "CCACC", {0x42, 0, 0, 0, 0, 0, 0, 0, 0}},
    {"SYNCHRONIZE CACHE(10)", "CCACC", {0x35}},
    {"SYNCHRONIZE CACHE(16)", "CCACC", {0x91}},
    {"SANITIZE, block erase", "CCACC", {0x48, 0x02}},
    {"SANITIZE, exit failure mode", "CCACC", {0x48, 0x1f}},
    {"EXTENDED COPY", "CCACC", {0x83}},
    {"PERSISTENT RESERVE IN, READ KEYS", "AAAAA", {0x5e, 0, 0, 0, 0, 0, 0, 0, 64}},
    {"PERSISTENT RESERVE IN, READ RESERVATION", "AAAAA", {0x5e, 1, 0, 0, 0, 0, 0, 0, 64}},
    {"PERSISTENT RESERVE IN, REPORT CAPABILITIES", "AAAAA", {0x5e, 2, 0, 0, 0, 0, 0, 0, 64}},
    {"PERSISTENT RESERVE IN, READ FULL STATUS", "AAAAA", {0x5e, 3, 0, 0, 0, 0, 0, 0, 64}},
    {"RESERVE(6)", "CCCCC", {0x16}},
    {"RESERVE(10)", "CCCCC", {0x56}},
    {"RELEASE(6)", "CCCCC", {0x17}},
    {"RELEASE(10)", "CCCCC", {0x57}},
};

Bytes parameters(std::uint64_t key, std::uint64_t action_key) {
  Bytes list(24);
  store_be64(&list[0], key);
  store_be64(&list[8], action_key);
  return list;
}

ScsiAnswer reserve_out(ScsiInitiator& by, unsigned action, unsigned type, std::uint64_t key,
                       std::uint64_t action_key) {
  return by.send({0x5f, action, type, 0, 0, 0, 0, 0, 24}, parameters(key, action_key));
}

constexpr std::uint64_t key_a = 0xa1, key_b = 0xb2;

// Initiator a holds a reservation; b is registered or not.
class Reserved {
 public:
  Reserved(unsigned type, bool registered)
      : device_(1 << 20, {.threads = threads(), .unit = {.identity = {.removable = true}}}),
        a(device_, "a"),
        b(device_, "b") {
    EXPECT_EQ(reserve_out(a, 0, 0, 0, key_a).status, Status::good);
    if (registered) {
      EXPECT_EQ(reserve_out(b, 0, 0, 0, key_b).status, Status::good);
    }
    EXPECT_EQ(reserve_out(a, 1, type, key_a, 0).status, Status::good);
  }
  ReservationState state() { return device_.unit().reservations().state(); }

 private:
  static std::shared_ptr<ScsiDevice::Threads> threads() {
    static const auto shared = std::make_shared<ScsiDevice::Threads>();
    return shared;
  }
  ScsiDevice device_;

 public:
  ScsiInitiator a, b;
};

// The column of a row for a type and whether the nexus is registered.
std::size_t column(unsigned type, bool registered) {
  if (type == write_exclusive) return 0;
  if (type == exclusive_access) return 1;
  if (registered) return 2;
  return type == write_exclusive_registrants || type == write_exclusive_all ? 3 : 4;
}

TEST(ReservationMatrix, EveryCommandAgainstEveryType) {
  for (const Row& row : rows)
    for (const unsigned type : types)
      for (const bool registered : {false, true}) {
        Reserved unit(type, registered);
        const ScsiAnswer answer = unit.b.send(row.cdb, Bytes(row.data));
        const bool conflict = row.columns[column(type, registered)] == 'C';
        EXPECT_EQ(answer.status == Status::reservation_conflict, conflict)
            << row.name << ", type " << type << (registered ? ", registered" : ", not registered");
        EXPECT_NE(answer.key(), 6u) << row.name << ": a unit attention hides the answer";
      }
}

TEST(ReservationMatrix, TheHolderMayDoEverything) {
  for (const Row& row : rows)
    for (const unsigned type : types) {
      Reserved unit(type, false);
      const ScsiAnswer answer = unit.a.send(row.cdb, Bytes(row.data));
      // RESERVE and RELEASE of SPC-2 conflict with any registration.
      const bool conflict = std::string(row.columns) == "CCCCC";
      EXPECT_EQ(answer.status == Status::reservation_conflict, conflict)
          << row.name << ", type " << type;
    }
}

// Service actions of PERSISTENT RESERVE OUT: from a nexus that is registered but holds
// nothing, from one that is not registered.
TEST(ReservationMatrix, EveryServiceActionAgainstEveryType) {
  struct Action {
    const char* name;
    unsigned action;
    char registered, stranger;
  };
  constexpr Action actions[] = {
      {"REGISTER", 0, 'A', 'A'},
      {"RESERVE", 1, 'C', 'C'},
      {"RELEASE", 2, 'A', 'C'},
      {"CLEAR", 3, 'A', 'C'},
      {"PREEMPT", 4, 'A', 'C'},
      {"PREEMPT AND ABORT", 5, 'A', 'C'},
      {"REGISTER AND IGNORE EXISTING KEY", 6, 'A', 'A'},
      {"REGISTER AND MOVE", 7, 'C', 'C'},
  };
  for (const Action& action : actions)
    for (const unsigned type : types)
      for (const bool registered : {false, true}) {
        Reserved unit(type, registered);
        const bool registering = action.action == 0 || action.action == 6;
        const std::uint64_t key = registered || !registering ? key_b : 0;
        const std::uint64_t action_key = registering ? key_b + 1 : key_a;
        Bytes list = parameters(key, action_key);
        if (action.action == 7) {
          const PortId port = test::test_port("a");
          store_be32(&list[20], port.size());
          for (const char c : port) list.push_back(static_cast<std::byte>(c));
        }
        const auto length = static_cast<unsigned>(list.size());
        const ScsiAnswer answer =
            unit.b.send({0x5f, action.action, type, 0, 0, 0, 0, 0, length}, list);
        char expected = registered ? action.registered : action.stranger;
        // Every registrant holds a reservation of all registrants: it may reserve again.
        const bool all = type == write_exclusive_all || type == exclusive_access_all;
        if (action.action == 1 && all && registered) expected = 'A';
        EXPECT_EQ(answer.status, expected == 'C' ? Status::reservation_conflict : Status::good)
            << action.name << ", type " << type << (registered ? ", registered" : ", a stranger");
      }
}

TEST(ReservationMatrix, AWrongKeyIsAConflictAndChangesNothing) {
  for (const unsigned type : types)
    for (const unsigned action : {0u, 1u, 2u, 3u, 4u, 5u}) {
      Reserved unit(type, true);
      const ReservationState before = unit.state();
      for (ScsiInitiator* const by : {&unit.a, &unit.b})
        EXPECT_EQ(reserve_out(*by, action, type, 0xdead, key_a).status,
                  Status::reservation_conflict)
            << "action " << action << ", type " << type;
      EXPECT_EQ(unit.state(), before);
    }
}

TEST(ReservationMatrix, ReleaseTellsTheOtherRegistrantsOfSharedTypes) {
  for (const unsigned type : types) {
    Reserved unit(type, true);
    EXPECT_EQ(reserve_out(unit.a, 2, type, key_a, 0).status, Status::good);
    EXPECT_EQ(unit.state().type, ReservationType::none);
    const bool shared = type >= write_exclusive_registrants;
    const ScsiAnswer next = unit.b.send({0x00});
    EXPECT_EQ(next.code(), shared ? asc::reservations_released : 0) << "type " << type;
    EXPECT_EQ(unit.a.send({0x00}).status, Status::good);
  }
}

TEST(ReservationMatrix, PreemptMovesTheReservationAndTellsItsHolder) {
  for (const unsigned type : types)
    for (const unsigned wanted : types) {
      Reserved unit(type, true);
      // Of a reservation of all registrants nobody is the holder: key 0 means it.
      const std::uint64_t victim = type >= write_exclusive_all ? 0 : key_a;
      EXPECT_EQ(reserve_out(unit.b, 4, wanted, key_b, victim).status, Status::good);
      const ReservationState now = unit.state();
      EXPECT_EQ(static_cast<unsigned>(now.type), wanted) << "type " << type;
      ASSERT_EQ(now.registrants.size(), 1u);
      EXPECT_EQ(now.registrants.front().port, unit.b.port());
      EXPECT_EQ(now.holder, wanted >= write_exclusive_all ? PortId{} : unit.b.port());
      EXPECT_EQ(unit.a.send({0x00}).code(), asc::registrations_preempted);
      EXPECT_EQ(unit.a.send({0x2a, 0, 0, 0, 0, 0, 0, 0, 1}, Bytes(512)).status,
                Status::reservation_conflict);
      EXPECT_EQ(unit.b.send({0x00}).status, Status::good);
    }
}

TEST(ReservationMatrix, TheLastRegistrantsLeavingEndsAReservationOfAll) {
  for (const unsigned type : {write_exclusive_all, exclusive_access_all}) {
    Reserved unit(type, true);
    EXPECT_EQ(reserve_out(unit.a, 0, 0, key_a, 0).status, Status::good);
    EXPECT_EQ(static_cast<unsigned>(unit.state().type), type) << "b is still there";
    EXPECT_EQ(reserve_out(unit.b, 0, 0, key_b, 0).status, Status::good);
    EXPECT_EQ(unit.state().type, ReservationType::none);
  }
}

}  // namespace
}  // namespace tidepool::scsi
