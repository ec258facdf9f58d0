#include "base/http_message.h"

#include <http_parser.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace tidepool {

namespace {

int digit_of(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// A '%' without two digits behind it stands for itself.
std::string decoded(std::string_view text, bool plus_is_space) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const int high = i + 2 < text.size() ? digit_of(text[i + 1]) : -1;
    const int low = i + 2 < text.size() ? digit_of(text[i + 2]) : -1;
    if (text[i] == '%' && high >= 0 && low >= 0) {
      out += static_cast<char>(high * 16 + low);
      i += 2;
    } else {
      out += plus_is_space && text[i] == '+' ? ' ' : text[i];
    }
  }
  return out;
}

std::map<std::string, std::string> parameters_in(std::string_view query) {
  std::map<std::string, std::string> parameters;
  while (!query.empty()) {
    const std::string_view part = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(part.size() + 1, query.size()));
    const std::string_view name = part.substr(0, part.find('='));
    if (part.empty()) continue;
    parameters.emplace(decoded(name, true),
                       decoded(part.substr(std::min(name.size() + 1, part.size())), true));
  }
  return parameters;
}

}  // namespace

struct HttpReader::Parser : http_parser {};

struct HttpReader::Callbacks {
  static HttpReader& reader(http_parser* parser) {
    return *static_cast<HttpReader*>(parser->data);
  }
  static int target(http_parser* parser, const char* data, std::size_t length) {
    reader(parser).target_.append(data, length);
    return 0;
  }
  static int body(http_parser* parser, const char* data, std::size_t length) {
    HttpReader& self = reader(parser);
    self.too_long_ = length > self.most_body_ - self.message_.body.size();
    if (self.too_long_) return 1;
    self.message_.body.append(data, length);
    return 0;
  }
  static int complete(http_parser* parser) {
    reader(parser).whole_ = true;
    http_parser_pause(parser, 1);  // what follows is not looked at
    return 0;
  }
  static const http_parser_settings& all() {
    static const http_parser_settings settings = [] {
      http_parser_settings s{};
      s.on_url = target;
      s.on_body = body;
      s.on_message_complete = complete;
      return s;
    }();
    return settings;
  }
};

HttpReader::HttpReader(Kind kind, std::size_t most_body)
    : parser_(std::make_unique<Parser>()), most_body_(most_body) {
  http_parser_init(parser_.get(), kind == Kind::request ? HTTP_REQUEST : HTTP_RESPONSE);
  parser_->data = this;
}

HttpReader::~HttpReader() = default;

Result<bool> HttpReader::take(std::string_view piece) {
  if (whole_) return true;
  if (HTTP_PARSER_ERRNO(parser_.get()) == HPE_OK) {
    http_parser_execute(parser_.get(), &Callbacks::all(), piece.data(), piece.size());
  }
  if (whole_) return finish();
  if (too_long_) {
    return fail(ErrorKind::invalid_argument, "its body has more than {} bytes", most_body_);
  }
  const http_errno error = HTTP_PARSER_ERRNO(parser_.get());
  if (error == HPE_INVALID_EOF_STATE || (error == HPE_OK && piece.empty())) {
    return fail(ErrorKind::io, "the connection ended within an HTTP message");
  }
  if (error == HPE_OK) return false;
  return fail(ErrorKind::invalid_argument, "this is not HTTP: {}", http_errno_description(error));
}

Result<bool> HttpReader::finish() {
  message_.status = parser_->status_code;
  if (parser_->type == HTTP_RESPONSE) return true;
  message_.method = http_method_str(static_cast<http_method>(parser_->method));
  const std::string_view target = std::string_view(target_).substr(0, target_.find('#'));
  const std::string_view path = target.substr(0, target.find('?'));
  message_.path = decoded(path, false);
  message_.parameters = parameters_in(target.substr(std::min(path.size() + 1, target.size())));
  return true;
}

std::string encode_path(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '.' || c == '_' || c == '~' || c == '/';
    if (plain)
      out += c;
    else
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

std::string request_text(const std::string& method, const std::string& path,
                         const std::map<std::string, std::string>& parameters,
                         const std::string& body) {
  std::string target = encode_path(path);
  char separator = '?';
  for (const auto& [key, value] : parameters) {
    target += separator + encode_path(key) + '=' + encode_path(value);
    separator = '&';
  }
  return fmt::format(
      "{} {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
      "Content-Length: {}\r\n\r\n{}",
      method, target, body.size(), body);
}

std::string response_text(unsigned status, const std::string& content_type,
                          const std::string& body) {
  return fmt::format(
      "HTTP/1.1 {} {}\r\nConnection: close\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n{}",
      status, http_status_str(static_cast<http_status>(status)), content_type, body.size(), body);
}

}  // namespace tidepool
