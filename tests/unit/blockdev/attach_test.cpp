// The parts of nbd-attach that need no kernel: which target an argument is, how its
// server is started, names of devices, flags, the handshake with a real server.
#include <gtest/gtest.h>
#include <arpa/inet.h>
#include <linux/nbd.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "blockdev/attach/connection.h"
#include "blockdev/attach/disk_server.h"
#include "blockdev/attach/nbd_control.h"
#include "blockdev/attach/target.h"
#include "blockdev/chain/chain_files.h"

namespace tidepool::blockdev::attach {
namespace {

namespace fs = std::filesystem;

class Attach : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = fs::temp_directory_path() / "attach-test.XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    directory = name;
    ASSERT_TRUE(chain::create_layer(chain::local_files(), {.path = directory / "disk.layer", .size = 1 << 20}));
    std::ofstream(directory / "raw.img");
    fs::resize_file(directory / "raw.img", 1 << 20);
  }
  void TearDown() override { fs::remove_all(directory); }

  std::string path(const char* name) const { return directory / name; }

  fs::path directory;
};

TEST_F(Attach, ALayerIsKnownByItsHeaderAndNothingElseIsGuessed) {
  auto layer = find_target(path("disk.layer"), false);
  ASSERT_TRUE(layer);
  EXPECT_EQ(layer->kind, TargetKind::chain);
  EXPECT_EQ(layer->location, fs::canonical(path("disk.layer")));
  EXPECT_FALSE(layer->sealed);
  ASSERT_TRUE(chain::create_layer(chain::local_files(), {.path = directory / "top.layer",
                                   .kind = chain::ParentKind::layer,
                                   .parent = directory / "disk.layer"}));
  EXPECT_TRUE(find_target(path("disk.layer"), false)->sealed);
  EXPECT_FALSE(find_target(path("disk.layer"), true));
  EXPECT_FALSE(find_target(path("raw.img"), false));
  auto raw = find_target(path("raw.img"), true);
  ASSERT_TRUE(raw);
  EXPECT_EQ(raw->kind, TargetKind::raw);
}

TEST_F(Attach, OnlyUrisWithoutTlsAreTaken) {
  EXPECT_EQ(find_target("nbd://host/disk", false)->kind, TargetKind::uri);
  EXPECT_EQ(find_target("nbd+unix:///?socket=/s", false)->kind, TargetKind::uri);
  EXPECT_EQ(find_target("nbds://host", false).error().kind, ErrorKind::unsupported);
  EXPECT_EQ(find_target("nbds+unix:///?socket=/s", false).error().kind, ErrorKind::unsupported);
  EXPECT_EQ(find_target("http://host", false).error().kind, ErrorKind::invalid_argument);
}

bool has(const std::vector<std::string>& command, const char* word) {
  return std::ranges::find(command, word) != command.end();
}

TEST_F(Attach, WritingThroughIsTheServersCommandLine) {
  ServerPlan plan{.target = {TargetKind::chain, "/d"}, .plugin = "cowchain"};
  EXPECT_FALSE(has(server_command(plan), "--filter=fua"));
  plan.write_through = true;
  EXPECT_TRUE(has(server_command(plan), "--filter=fua"));
  EXPECT_TRUE(has(server_command(plan), "fuamode=force"));
  EXPECT_TRUE(has(server_command(plan), "top=/d"));
}

TEST_F(Attach, DevicesHaveNumbers) {
  EXPECT_EQ(device_index("/dev/nbd0"), 0U);
  EXPECT_EQ(device_index("nbd17"), 17U);
  for (const char* wrong : {"", "nbd", "/dev/nbd", "/dev/sda", "/dev/nbd1p1", "nbd-1", "0",
                            "/dev/nbd99999999999"})
    EXPECT_FALSE(device_index(wrong)) << wrong;
  EXPECT_EQ(device_path(3), "/dev/nbd3");
}

TEST_F(Attach, ServerStartsAgainOnTheSameSocketAndItsSocketsAreTheKernels) {
  if (::system("nbdkit --version >/dev/null 2>&1") != 0) GTEST_SKIP() << "nbdkit is not installed";
  const ServerPlan plan{.target = {TargetKind::raw, path("raw.img")}};
  const std::string uri = "nbd+unix:///?socket=" + path("socket");
  for (int round = 0; round < 2; ++round) {
    auto server = DiskServer::start(plan, directory);
    ASSERT_TRUE(server) << server.error().message;
    auto connections = open_connections(uri, 3, std::chrono::seconds(60));
    ASSERT_TRUE(connections) << connections.error().message;
    ASSERT_EQ(connections->size(), 3U);
    const Connection& one = connections->front();
    EXPECT_EQ(one.offered().size, 1U << 20);
    EXPECT_EQ(one.offered().flags() & (NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_READ_ONLY),
              NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH);
    EXPECT_FALSE(one.is_dead());
    EXPECT_FALSE(one.is_adopted());
    // As the kernel does it: a read, which would have a structured reply if asked for.
    const timeval timeout{.tv_sec = 1, .tv_usec = 0};
    ASSERT_EQ(::setsockopt(one.fd(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout), 0);
    EXPECT_TRUE(one.is_adopted());
    nbd_request read{};
    read.magic = htonl(NBD_REQUEST_MAGIC);
    read.type = htonl(NBD_CMD_READ);
    read.len = htonl(512);
    ASSERT_EQ(::send(one.fd(), &read, sizeof read, MSG_NOSIGNAL), ssize_t{sizeof read});
    pollfd answered{.fd = one.fd(), .events = POLLIN, .revents = 0};
    ASSERT_EQ(::poll(&answered, 1, 60000), 1);
    nbd_reply reply{};
    ASSERT_EQ(::recv(one.fd(), &reply, sizeof reply, MSG_WAITALL), ssize_t{sizeof reply});
    EXPECT_EQ(ntohl(reply.magic), NBD_REPLY_MAGIC);
    EXPECT_EQ(reply.error, 0U);
    server->kill();
    EXPECT_FALSE(server->is_running());
    EXPECT_TRUE(one.is_dead());
  }
}

TEST_F(Attach, AServerThatCannotStartSaysWhy) {
  auto server = DiskServer::start({.target = {TargetKind::raw, path("absent")}}, directory);
  ASSERT_FALSE(server);
  EXPECT_NE(server.error().message.find("absent"), std::string::npos) << server.error().message;
}

}  // namespace
}  // namespace tidepool::blockdev::attach
