// Going to the background once the work that may fail is done.
//
//   auto background = Background::start();     forks; the caller's process waits in it
//   ... in the new process: what may fail ...
//   background->ready("/dev/nbd0\n", log);     or failed("..."): the caller's process ends
//
// Limits: call it before there are threads.
#pragma once

#include <filesystem>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace tidepool {

class Background {
 public:
  // Returns in the new process only, a session leader; the old one prints what the new
  // one says and exits with its status.
  static Result<Background> start();

  // The old process prints `answer` and exits with 0. From here on stderr is `log`.
  Result<> ready(const std::string& answer, const std::filesystem::path& log);
  // The old process prints `message` to stderr and exits with 1.
  void failed(const std::string& message);

 private:
  explicit Background(UniqueFd pipe) : pipe_(std::move(pipe)) {}
  void tell(char kind, const std::string& text);

  UniqueFd pipe_;
};

}  // namespace tidepool
