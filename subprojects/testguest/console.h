// What the guest says, on the serial port, and how it ends.
#pragma once

#include <stdint.h>

void say(const char* text);
void say_number(uint32_t value);
void say_line(const char* text, uint32_t value);

[[noreturn]] void power_off();
[[noreturn]] void reset();
// Says so, then turns the machine off: who waits for "passed" does not see it.
[[noreturn]] void fail(const char* what, uint32_t value);
inline void require(bool holds, const char* what, uint32_t value = 0) {
  if (!holds) fail(what, value);
}
