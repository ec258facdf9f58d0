#include "base/control_socket.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "base/unix_address.h"

namespace tidepool {
namespace {

class ControlSocket : public testing::Test {
 protected:
  ControlSocket() {
    char name[] = "/tmp/control-socket-test.XXXXXX";
    directory_ = ::mkdtemp(name);
    path_ = directory_ + "/run/it.sock";
  }
  ~ControlSocket() override { std::filesystem::remove_all(directory_); }

  std::unique_ptr<ControlServer> serve() {
    const auto echo = [](const ControlRequest& request) -> Result<ControlReply> {
      std::string text = request.method + "|" + request.path + "|" + request.name + "|";
      for (const auto& [key, value] : request.parameters) text += key + "=" + value + ";";
      return ControlReply{text + "|" + request.body};
    };
    auto server = ControlServer::start(
        path_, {{"GET", "/v1/echo", echo},
                {"PUT", "/v1/echo/*", echo},
                {"POST", "/v1/full",
                 [](const ControlRequest&) -> Result<ControlReply> {
                   return std::unexpected(Error{ErrorKind::no_space, 122, "VM a: \"quota\" met"});
                 }},
                {"POST", "/v1/throw", [](const ControlRequest&) -> Result<ControlReply> {
                   throw std::runtime_error("thrown");
                 }}});
    EXPECT_TRUE(server) << server.error().message;
    return server ? std::move(*server) : nullptr;
  }
  ControlClient client() { return ControlClient::connect(path_).value(); }

  std::string directory_, path_;
};

TEST_F(ControlSocket, CarriesEveryByteOfPathParametersAndBody) {
  const auto server = serve();
  EXPECT_EQ(client().request("GET", "/v1/echo", {{"disk", "a b/\xff%2F&=+\n"}}).value(),
            "GET|/v1/echo||disk=a b/\xff%2F&=+\n;|");
  EXPECT_EQ(client().request("PUT", "/v1/echo/vm %\n+\xc3\xa4", {}, "{\"x\":1}").value(),
            "PUT|/v1/echo/vm %\n+\xc3\xa4|vm %\n+\xc3\xa4||{\"x\":1}");
}

TEST_F(ControlSocket, AnErrorArrivesAsItWasMade) {
  const auto server = serve();
  const auto reply = client().request("POST", "/v1/full");
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().kind, ErrorKind::no_space);
  EXPECT_EQ(reply.error().errno_value, 122);
  EXPECT_EQ(reply.error().message, "VM a: \"quota\" met");
}

TEST_F(ControlSocket, WhatIsNotServedIsRefusedByName) {
  const auto server = serve();
  for (const char* path : {"/v1/nothing", "/v1/echo/a", "/"}) {
    const auto reply = client().request("GET", path);
    ASSERT_FALSE(reply) << path;
    EXPECT_EQ(reply.error().kind, ErrorKind::not_found);
    EXPECT_NE(reply.error().message.find(path), std::string::npos);
  }
  EXPECT_FALSE(client().request("PUT", "/v1/echo/a/b"));
}

TEST_F(ControlSocket, AHandlerThatThrowsIsAnErrorOfThatRequestAlone) {
  const auto server = serve();
  const auto reply = client().request("POST", "/v1/throw");
  ASSERT_FALSE(reply);
  EXPECT_NE(reply.error().message.find("thrown"), std::string::npos);
  EXPECT_TRUE(client().request("GET", "/v1/echo"));
}

// What a client that is not ours says and hears: everything until the connection ends.
std::string converse(const std::string& path, std::string_view text) {
  const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = *unix_address(path);
  EXPECT_EQ(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(::send(fd.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  ::shutdown(fd.get(), SHUT_WR);
  std::string heard;
  char piece[100];
  for (ssize_t got = 0; (got = ::recv(fd.get(), piece, sizeof piece, 0)) > 0;)
    heard.append(piece, static_cast<std::size_t>(got));
  return heard;
}

TEST_F(ControlSocket, WhatIsNotHttpIsRefused) {
  const auto server = serve();
  EXPECT_TRUE(converse(path_, "hello\r\n\r\n").starts_with("HTTP/1.1 400 "));
  EXPECT_EQ(converse(path_, "GET /v1/ec"), "");
  EXPECT_TRUE(converse(path_, "GET /v1/echo HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200 "));
}

TEST_F(ControlSocket, WhoSaysNothingKeepsNobodyWaiting) {
  auto server = serve();
  const sockaddr_un address = *unix_address(path_);
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 10; ++i) {
    silent.emplace_back(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::connect(silent.back().get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  }
  EXPECT_TRUE(client().request("GET", "/v1/echo"));
  server.reset();  // ends, though they are there
}

TEST_F(ControlSocket, MoreClientsThanConnectionsAreAllAnswered) {
  const auto server = serve();
  std::atomic<int> answered = 0;
  std::vector<std::thread> clients;
  for (int i = 0; i < 40; ++i) {
    clients.emplace_back([&] {
      const auto reply = client().request("GET", "/v1/echo");
      answered += reply ? 1 : 0;
    });
  }
  for (std::thread& one : clients) one.join();
  EXPECT_EQ(answered, 40);
}

TEST_F(ControlSocket, TheSocketIsItsOwnersAlone) {
  const mode_t previous = ::umask(0);
  const auto server = serve();
  ::umask(previous);
  struct stat status {};
  ASSERT_EQ(::stat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0600U);
  ASSERT_EQ(::stat((directory_ + "/run").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0700U);
}

TEST_F(ControlSocket, ReplacesTheSocketOfADeadProgram) {
  std::filesystem::create_directory(directory_ + "/run");
  {
    const UniqueFd dead(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_un address = *unix_address(path_);
    ASSERT_EQ(::bind(dead.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  }
  EXPECT_EQ(ControlClient::connect(path_).error().kind, ErrorKind::not_found);
  const auto server = serve();
  EXPECT_TRUE(client().request("GET", "/v1/echo"));
}

TEST_F(ControlSocket, LeavesALiveOneAndAFileAlone) {
  const auto server = serve();
  const auto second = ControlServer::start(path_, {});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().kind, ErrorKind::busy);
  EXPECT_TRUE(client().request("GET", "/v1/echo"));

  std::ofstream(directory_ + "/file") << "text";
  const auto on_file = ControlServer::start(directory_ + "/file", {});
  ASSERT_FALSE(on_file);
  EXPECT_EQ(on_file.error().kind, ErrorKind::exists);
  EXPECT_TRUE(std::filesystem::exists(directory_ + "/file"));
}

TEST_F(ControlSocket, IsGoneWithItsServer) {
  serve().reset();
  EXPECT_FALSE(std::filesystem::exists(path_));
  EXPECT_EQ(ControlClient::connect(path_).error().kind, ErrorKind::not_found);
}

TEST_F(ControlSocket, RefusesAPathThatNoSocketCanHave) {
  const auto server = ControlServer::start(directory_ + "/" + std::string(120, 'x'), {});
  ASSERT_FALSE(server);
  EXPECT_EQ(server.error().kind, ErrorKind::invalid_argument);
}

}  // namespace
}  // namespace tidepool
