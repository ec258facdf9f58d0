#include "console.h"

#include "guest.h"

namespace {
constexpr uint16_t serial = 0x3f8, line_status = serial + 5;
constexpr uint16_t power_control = 0x604, reset_port = 0x64;
constexpr uint8_t transmitter_empty = 0x20;
}  // namespace

void say(const char* text) {
  for (; *text != 0; ++text) {
    while ((in8(line_status) & transmitter_empty) == 0) {
    }
    out8(serial, static_cast<uint8_t>(*text));
  }
}

void say_number(uint32_t value) {
  char digits[11];
  char* at = digits + 10;
  *at = 0;
  do {
    *--at = static_cast<char>('0' + value % 10);
    value /= 10;
  } while (value != 0);
  say(at);
}

void say_line(const char* text, uint32_t value) {
  say(text);
  say(" ");
  say_number(value);
  say("\n");
}

void power_off() {
  out16(power_control, 1U << 13 | 5U << 10);
  out16(power_control, 1U << 13);  // QEMU's number for the same
  for (;;) asm volatile("hlt");
}

void reset() {
  out8(reset_port, 0xfe);
  for (;;) asm volatile("hlt");
}

void fail(const char* what, uint32_t value) {
  say("testguest: failed: ");
  say_line(what, value);
  power_off();
}
