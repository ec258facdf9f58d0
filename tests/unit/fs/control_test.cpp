#include <gtest/gtest.h>

#include <cstdlib>

#include "fs/control/control_service.h"
#include "fs/control/prometheus.h"

namespace tidepool::control {
namespace {

using nlohmann::json;

TEST(VmChanges, TakesNumbersAndSizes) {
  const auto changes = parse_vm_changes(R"({"quota": 4096, "reserve": "1.5G"})").value();
  EXPECT_EQ(changes.quota, 4096U);
  EXPECT_EQ(changes.reserve, std::uint64_t{3} << 29);
  EXPECT_FALSE(changes.durability);
}

TEST(VmChanges, WhatIsNotNamedStays) {
  const auto changes = parse_vm_changes("{}").value();
  EXPECT_FALSE(changes.quota || changes.reserve || changes.durability);
}

TEST(VmChanges, SurvivesTheWire) {
  const VmChanges sent{0, UINT64_MAX, pool::Durability::scratch};
  const auto received = parse_vm_changes(to_json(sent).dump()).value();
  EXPECT_EQ(received.quota, sent.quota);
  EXPECT_EQ(received.reserve, sent.reserve);
  EXPECT_EQ(received.durability, sent.durability);
}

TEST(VmChanges, RefusesNonsense) {
  for (const char* body :
       {"", "[]", "{", "7", R"({"quota": -1})", R"({"quota": 1.5})", R"({"quota": null})",
        R"({"quota": "much"})", R"({"qouta": 1})", R"({"durability": "sure"})",
        R"({"durability": 1})", R"({"reserve": 99999999999999999999})"}) {
    const auto changes = parse_vm_changes(body);
    ASSERT_FALSE(changes) << body;
    EXPECT_EQ(changes.error().kind, ErrorKind::invalid_argument);
  }
}

TEST(Grow, NeedsASize) {
  EXPECT_EQ(parse_grow(R"({"size": "2G"})").value(), std::uint64_t{2} << 30);
  EXPECT_EQ(parse_grow(R"({"size": 0})").value(), 0U);
  EXPECT_FALSE(parse_grow("{}"));
  EXPECT_FALSE(parse_grow(R"({"size": true})"));
}

TEST(Durability, IsReadAsItIsWritten) {
  for (const auto durability : {pool::Durability::durable, pool::Durability::scratch})
    EXPECT_EQ(parse_durability(durability_name(durability)).value(), durability);
  EXPECT_FALSE(parse_durability("Durable"));
}

TEST(ControlSocketPath, FollowsTheEnvironment) {
  ::setenv("ELASTICFS_RUN", "/somewhere", 1);
  EXPECT_EQ(control_socket_path("u"), "/somewhere/u.sock");
  EXPECT_EQ(control_socket_candidates("u"),
            (std::vector<std::string>{"/somewhere/u.sock", "/run/elasticfs/u.sock"}));
  ::unsetenv("ELASTICFS_RUN");
  EXPECT_EQ(control_socket_candidates("u").back(), "/run/elasticfs/u.sock");
}

json some_stat() {
  json stat = {{"uuid", "1234"}, {"vms", json::array()}};
  for (const char* member :
       {"pool_bytes", "metadata_bytes", "data_bytes", "used_bytes", "available_bytes",
        "releasing_bytes", "reserved_bytes", "disk_bytes", "host_bytes", "vm_count", "disk_count",
        "extent_count", "map_memory_bytes", "commits", "checkpoints", "journal_bytes"})
    stat[member] = 7;
  return stat;
}

TEST(Prometheus, NamesPoolAndVm) {
  json stat = some_stat();
  stat["used_bytes"] = std::uint64_t{1} << 63;
  stat["vms"].push_back({{"name", "a\"b\\c\nd"},
                         {"used_bytes", 1},
                         {"available_bytes", 2},
                         {"quota_bytes", 3},
                         {"reserve_bytes", 4},
                         {"disk_count", 5}});
  const std::string text = prometheus_text(stat);
  EXPECT_NE(text.find("# TYPE elasticfs_used_bytes gauge\n"
                      "elasticfs_used_bytes{pool=\"1234\"} 9223372036854775808\n"),
            std::string::npos);
  EXPECT_NE(text.find("# TYPE elasticfs_commits_total counter\n"), std::string::npos);
  EXPECT_NE(text.find("elasticfs_vm_quota_bytes{pool=\"1234\",vm=\"a\\\"b\\\\c\\nd\"} 3\n"),
            std::string::npos);
}

TEST(Prometheus, APoolWithoutVmsHasNoEmptyFamilies) {
  EXPECT_EQ(prometheus_text(some_stat()).find("elasticfs_vm_"), std::string::npos);
}

}  // namespace
}  // namespace tidepool::control
