// Requests and responses of HTTP/1.1 as text, read and written whole; no I/O.
//
// What comes in is parsed by http-parser. Limits: one message per reader, what follows it
// is left alone; a head of at most 80 KiB; of the header fields only those that say where
// the message ends have a meaning.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

namespace tidepool {

struct HttpMessage {
  // A request's.
  std::string method;
  std::string path;                               // decoded, without the parameters
  std::map<std::string, std::string> parameters;  // after the '?', decoded
  // A response's.
  unsigned status = 0;

  std::string body;
};

// One thread at a time.
class HttpReader {
 public:
  enum class Kind { request, response };
  // A body of more than most_body bytes is refused.
  HttpReader(Kind kind, std::size_t most_body);
  ~HttpReader();
  HttpReader(const HttpReader&) = delete;
  HttpReader& operator=(const HttpReader&) = delete;

  // Takes what came, in pieces of any size; an empty piece is the end of what comes. True
  // when the message is whole. invalid_argument: this is not HTTP, or too long; io: it
  // ended before it was whole. After an error nothing more is taken.
  Result<bool> take(std::string_view piece);
  const HttpMessage& message() const { return message_; }  // once it is whole

 private:
  struct Parser;
  struct Callbacks;
  Result<bool> finish();

  const std::unique_ptr<Parser> parser_;
  const std::size_t most_body_;
  HttpMessage message_;
  std::string target_;  // of a request, as it came
  bool whole_ = false, too_long_ = false;
};

// Percent-encodes every byte but letters, digits and "-._~" (and '/', for paths).
std::string encode_path(const std::string& text);

// As they are sent. Each says that the connection ends with it.
std::string request_text(const std::string& method, const std::string& path,
                         const std::map<std::string, std::string>& parameters,
                         const std::string& body);
std::string response_text(unsigned status, const std::string& content_type,
                          const std::string& body);

}  // namespace tidepool
