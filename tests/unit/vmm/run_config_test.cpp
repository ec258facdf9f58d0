// The configuration file of leanvm: each key, and each way to get one wrong.
#include "vmm/tools/run_config.h"

#include <gtest/gtest.h>

namespace tidepool::tools {
namespace {

TEST(RunConfig, HasAKeyForEachOption) {
  const auto config = parse_run_config(R"({
    "kernel": "/vmlinuz", "initrd": "/initrd.img", "cmdline": "console=ttyS0 quiet", "cpus": 4,
    "memory": "2G", "disk": ["a.img,raw", "nbd://host/"], "scsi": ["b.img,raw"],
    "net": ["tap=tap0"],
    "console": "virtio", "name": "web", "no-reboot": true})");
  ASSERT_TRUE(config) << config.error().message;
  RunConfig wanted;
  wanted.kernel = "/vmlinuz";
  wanted.initrd = "/initrd.img";
  wanted.command_line = "console=ttyS0 quiet";
  wanted.cpus = 4;
  wanted.memory = "2G";
  wanted.disks = {"a.img,raw", "nbd://host/"};
  wanted.scsi_disks = {"b.img,raw"};
  wanted.nets = {"tap=tap0"};
  wanted.console = "virtio";
  wanted.name = "web";
  wanted.no_reboot = true;
  EXPECT_EQ(*config, wanted);
}

TEST(RunConfig, KeepsWhatIsNotSaidAbsent) {
  const auto config = parse_run_config(R"({"memory": 1073741824, "disk": []})");
  ASSERT_TRUE(config) << config.error().message;
  RunConfig wanted;
  wanted.memory = "1073741824";
  wanted.disks.emplace();
  EXPECT_EQ(*config, wanted);
}

struct Wrong {
  const char* text;
  const char* says;
};

TEST(RunConfig, NamesWhatIsWrong) {
  for (const Wrong& wrong : {
           Wrong{R"({"kernal": "/vmlinuz"})", "\"kernal\" is no key"},
           Wrong{R"({"--kernel": "/vmlinuz"})", "\"--kernel\" is no key"},
           Wrong{R"({"kernel": "a", "cpus": 1, "kernel": "b"})", "\"kernel\" comes twice"},
           Wrong{R"({"kernel": 1})", "\"kernel\": a string is meant"},
           Wrong{R"({"kernel": "a\u0000b"})", "without zero bytes"},
           Wrong{R"({"cpus": "4"})", "\"cpus\": a number is meant"},
           Wrong{R"({"cpus": -1})", "\"cpus\": a number is meant"},
           Wrong{R"({"cpus": 4294967297})", "\"cpus\": a number is meant"},
           Wrong{R"({"cpus": 1.5})", "\"cpus\": a number is meant"},
           Wrong{R"({"memory": -1})", "\"memory\": a size"},
           Wrong{R"({"disk": "a.img"})", "\"disk\": a list of strings"},
           Wrong{R"({"disk": ["a.img", 1]})", "\"disk\": a list of strings"},
           Wrong{R"({"net": {}})", "\"net\": a list of strings"},
           Wrong{R"({"console": "vga"})", "\"console\": \"serial\" or \"virtio\""},
           Wrong{R"({"no-reboot": 1})", "\"no-reboot\": true or false"},
           Wrong{R"({"cpus": 1e999})", "too large"},
           Wrong{R"({"kernel": "a")", "not JSON: at byte 15"},
           Wrong{"", "not JSON"},
           Wrong{"[]", "a JSON object is meant"},
       }) {
    const auto config = parse_run_config(wrong.text);
    ASSERT_FALSE(config) << wrong.text;
    EXPECT_NE(config.error().message.find(wrong.says), std::string::npos)
        << wrong.text << ": " << config.error().message;
  }
  const auto config = parse_run_config(std::string((1 << 20) + 1, ' '));
  ASSERT_FALSE(config);
  EXPECT_NE(config.error().message.find("more than 1 MiB"), std::string::npos);
}

}  // namespace
}  // namespace tidepool::tools
