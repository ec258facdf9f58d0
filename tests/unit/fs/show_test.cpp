#include "fs/tools/show.h"

#include <gtest/gtest.h>

namespace tidepool::tools {
namespace {

using nlohmann::json;

json report() {
  return {{"path", "/p"},
          {"findings", json::array()},
          {"losses", json::array()},
          {"repaired", json::array()},
          {"vm_count", 1},
          {"disk_count", 2},
          {"extent_count", 3},
          {"used_bytes", 4096},
          {"leaked_bytes", 0},
          {"journal_records", 0},
          {"sound", true}};
}

TEST(ShowCheck, ASoundPoolIsOneLine) {
  EXPECT_EQ(show_check(report()), "pool /p: no faults (1 VMs, 2 disks, 3 extents, 4 KiB used)\n");
}

TEST(ShowCheck, FaultsLossesAndRepairsAreSaid) {
  json faulty = report();
  faulty["findings"] = {"page 3 is damaged"};
  EXPECT_NE(show_check(faulty).find("found:    page 3 is damaged\npool /p: faulty; 'elasticctl "
                                    "check --repair'"),
            std::string::npos);
  faulty["losses"] = {"disk a/b\x1b[1m"};
  faulty["repaired"] = {"map"};
  const std::string text = show_check(faulty);
  EXPECT_NE(text.find("lost:     disk a/b?[1m\nrepaired: map\npool /p: repaired"),
            std::string::npos);
}

TEST(ShowCheck, WhatACrashLeftIsNoFault) {
  json crashed = report();
  crashed["journal_records"] = 5;
  crashed["leaked_bytes"] = 8192;
  EXPECT_EQ(show_check(crashed),
            "pool /p: no faults (1 VMs, 2 disks, 3 extents, 4 KiB used)\n"
            "note: it was not closed cleanly; 5 journal records make up for that\n"
            "note: the host holds 8 KiB for blocks that are free\n");
}

TEST(ShowMap, CountsWhatIsMappedAndShowsHoles) {
  const json map = {{"disk", "vm1/a"},
                    {"size_bytes", 8192},
                    {"used_bytes", 4096},
                    {"ranges",
                     {{{"offset", 0}, {"length", 4096}, {"kind", "data"}, {"pool_offset", 65536}},
                      {{"offset", 4096}, {"length", 4096}, {"kind", "hole"}}}}};
  EXPECT_EQ(show_map(map),
            "vm1/a: 8 KiB, 4 KiB used in 1 range\n"
            "OFFSET  LENGTH  KIND  POOL OFFSET\n"
            "     0   4 KiB  data        65536\n"
            "  4096   4 KiB  hole            -\n");
}

TEST(ShowList, AnEmptyPoolSaysHowToGoOn) {
  EXPECT_NE(show_list({{"vms", json::array()}}).find("mkdir"), std::string::npos);
}

TEST(ShowVm, NoLimitIsNone) {
  EXPECT_EQ(show_vm({{"name", "vm1"},
                     {"quota_bytes", 0},
                     {"reserve_bytes", 1 << 20},
                     {"durability", "scratch"},
                     {"used_bytes", 0}}),
            "VM vm1: quota none, reserve 1 MiB, scratch, 0 B used\n");
}

}  // namespace
}  // namespace tidepool::tools
