#include "base/http_message.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace tidepool {
namespace {

constexpr std::size_t most = 100;  // bytes of a body

Result<HttpMessage> read(HttpReader::Kind kind, std::string_view text, std::size_t piece) {
  HttpReader reader(kind, most);
  for (;;) {
    const auto whole = reader.take(text.substr(0, piece));
    if (!whole) return std::unexpected(whole.error());
    if (*whole) return reader.message();
    text.remove_prefix(std::min(piece, text.size()));
  }
}

std::string every_byte() {
  std::string bytes;
  for (int i = 0; i < 256; ++i) bytes += static_cast<char>(i);
  return bytes;
}

TEST(HttpMessage, ARequestIsReadAsItWasWrittenInPiecesOfAnySize) {
  const std::map<std::string, std::string> parameters{{"a b&=+%", every_byte()}, {"empty", ""}};
  const std::string text = request_text("PUT", "/v1/" + every_byte(), parameters, "{\"x\": 1}");
  for (const std::size_t piece : {std::size_t{1}, std::size_t{7}, text.size(), text.size() * 2}) {
    const auto message = read(HttpReader::Kind::request, text + "GET / HTTP/1.1\r\n", piece);
    ASSERT_TRUE(message) << message.error().message;
    EXPECT_EQ(message->method, "PUT");
    EXPECT_EQ(message->path, "/v1/" + every_byte());
    EXPECT_EQ(message->parameters, parameters);
    EXPECT_EQ(message->body, "{\"x\": 1}");
  }
}

TEST(HttpMessage, AResponseIsReadAsItWasWritten) {
  for (const unsigned status : {200U, 404U, 423U, 507U}) {
    const auto message =
        read(HttpReader::Kind::response, response_text(status, "text/plain", every_byte().substr(0, most)), 3);
    ASSERT_TRUE(message) << message.error().message;
    EXPECT_EQ(message->status, status);
    EXPECT_EQ(message->body, every_byte().substr(0, most));
  }
}

TEST(HttpMessage, WhatCurlSays) {
  const auto got = read(HttpReader::Kind::request,
                        "GET /v1/stat?vm=a+b%2&&=x#part HTTP/1.1\r\nHost: localhost\r\n"
                        "User-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n",
                        5);
  ASSERT_TRUE(got) << got.error().message;
  EXPECT_EQ(got->path, "/v1/stat");
  EXPECT_EQ(got->parameters,
            (std::map<std::string, std::string>{{"vm", "a b%2"}, {"", "x"}}));
  const auto chunked = read(HttpReader::Kind::request,
                            "POST /v1/a HTTP/1.1\r\nHost: localhost\r\n"
                            "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
                            4);
  ASSERT_TRUE(chunked) << chunked.error().message;
  EXPECT_EQ(chunked->body, "abcde");
}

TEST(HttpMessage, AnAnswerWithoutALengthEndsWithTheConnection) {
  const auto message = read(HttpReader::Kind::response, "HTTP/1.1 200 OK\r\n\r\nabc", 100);
  ASSERT_TRUE(message) << message.error().message;
  EXPECT_EQ(message->body, "abc");
}

TEST(HttpMessage, WhatIsWrongIsRefused) {
  for (const std::string& text : {
           std::string("hello\r\n\r\n"),
           std::string("GET / FTP/1.1\r\n\r\n"),
           std::string("GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"),
           "GET / HTTP/1.1\r\nA: " + std::string(100'000, 'a') + "\r\n\r\n",
           request_text("POST", "/", {}, std::string(most + 1, 'b')),
       }) {
    const auto message = read(HttpReader::Kind::request, text, 1000);
    ASSERT_FALSE(message) << text;
    EXPECT_EQ(message.error().kind, ErrorKind::invalid_argument);
  }
  // The twin: one byte less is not too long.
  EXPECT_TRUE(read(HttpReader::Kind::request, request_text("POST", "/", {}, std::string(most, 'b')),
                   1000));
}

TEST(HttpMessage, AnEarlyEndIsNoMessage) {
  const std::string text = request_text("POST", "/v1/a", {}, "body");
  for (std::size_t length = 0; length < text.size(); ++length) {
    const auto message = read(HttpReader::Kind::request, text.substr(0, length), 1000);
    ASSERT_FALSE(message) << length;
    EXPECT_EQ(message.error().kind, ErrorKind::io);
  }
}

}  // namespace
}  // namespace tidepool
