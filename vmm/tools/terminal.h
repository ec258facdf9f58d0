// The terminal, or whatever standard input is, as a machine's keyboard.
//
// A terminal is made raw for the object's life: every key reaches the guest. Ctrl-A, then
// x, asks for the machine's end; Ctrl-A twice types one.
//
// type() and escape() are called on the reading thread, which has every signal blocked.
#pragma once

#include <termios.h>

#include <functional>
#include <string_view>
#include <thread>

#include "base/unique_fd.h"

namespace tidepool::tools {

class Keyboard {
 public:
  Keyboard(std::function<void(std::string_view)> type, std::function<void()> escape);
  ~Keyboard();
  Keyboard(const Keyboard&) = delete;
  Keyboard& operator=(const Keyboard&) = delete;

 private:
  void read_keys();
  void take(std::string_view keys);

  const std::function<void(std::string_view)> type_;
  const std::function<void()> escape_;
  bool raw_ = false, escaped_ = false;
  termios before_{};
  UniqueFd wake_;  // eventfd
  std::thread thread_;
};

// All of the text, on standard output; what cannot be written is lost.
void print(std::string_view text);

}  // namespace tidepool::tools
