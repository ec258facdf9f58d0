// Requests and responses of HTTP: what is read whole is the same however it was cut, and
// what we write of it is read as that again.
#include <algorithm>
#include <string_view>

#include "base/http_message.h"
#include "tests/fuzz/target.h"

namespace tidepool::test {

namespace {

constexpr std::size_t most_body = 1000;

Result<HttpMessage> read(HttpReader::Kind kind, std::string_view text, std::size_t piece) {
  HttpReader reader(kind, most_body);
  for (;;) {
    const auto whole = reader.take(text.substr(0, piece));
    if (!whole) return std::unexpected(whole.error());
    if (*whole) return reader.message();
    text.remove_prefix(std::min(piece, text.size()));
  }
}

bool same(const HttpMessage& a, const HttpMessage& b) {
  return a.method == b.method && a.path == b.path && a.parameters == b.parameters &&
         a.status == b.status && a.body == b.body;
}

}  // namespace

std::vector<Input> seeds() {
  std::vector<Input> inputs;
  for (const std::string& text : {
           request_text("PUT", "/v1/vm/a b", {{"size", "1%+&G"}, {"x", ""}}, "{\"a\": [1, 2]}"),
           request_text("GET", "/v1/info", {}, ""),
           response_text(507, "application/json", "{\"error\": {}}\n"),
           std::string("POST /v1/%zz%4 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
                       "3;a=b\r\nabc\r\n0\r\nC: d\r\n\r\n"),
           std::string("HTTP/1.0 200 OK\r\n\r\nuntil the end"),
       }) {
    const auto bytes = std::as_bytes(std::span(text));
    inputs.emplace_back(bytes.begin(), bytes.end());
  }
  return inputs;
}

void run_one(std::span<const std::byte> input) {
  const std::string_view text(reinterpret_cast<const char*>(input.data()), input.size());
  for (const auto kind : {HttpReader::Kind::request, HttpReader::Kind::response}) {
    const auto whole = read(kind, text, std::max<std::size_t>(text.size(), 1));
    const auto cut = read(kind, text, 1);
    require(whole.has_value() == cut.has_value(), "it is a message however it is cut");
    if (!whole) {
      require(!whole.error().message.empty(), "an error says something");
      continue;
    }
    require(same(*whole, *cut), "and the same one");
    require(whole->body.size() <= most_body, "a body is as long as it may be at most");
    if (kind == HttpReader::Kind::response || !whole->path.starts_with('/')) continue;
    const auto again = read(kind, request_text(whole->method, whole->path, whole->parameters, whole->body), 100);
    if (whole->method == "CONNECT") continue;  // has another kind of target
    require(again && same(*whole, *again), "what is written of it is read as that");
  }
}

}  // namespace tidepool::test
