// The test guest: finds the test's name on the command line, runs it, says how it went
// and turns the machine off.
#include "console.h"
#include "guest.h"
#include "tests.h"

extern "C" void* memset(void* to, int value, size_t count) {
  auto* bytes = static_cast<volatile uint8_t*>(to);
  while (count-- > 0) *bytes++ = static_cast<uint8_t>(value);
  return to;
}
extern "C" void* memcpy(void* to, const void* from, size_t count) {
  auto* out = static_cast<volatile uint8_t*>(to);
  const auto* in = static_cast<const uint8_t*>(from);
  while (count-- > 0) *out++ = *in++;
  return to;
}

extern "C" uint8_t end_of_image[];

uint8_t* take_memory(uint32_t bytes, uint32_t alignment) {
  static uint32_t next = reinterpret_cast<uint32_t>(end_of_image);
  next = (next + alignment - 1) & ~(alignment - 1);
  auto* const taken = reinterpret_cast<uint8_t*>(next);
  next += bytes;
  return taken;
}

namespace {

struct Test {
  const char* name;
  void (*run)();
};
constexpr Test tests[] = {
    {"none", [] {}},           {"disk", test_disk},       {"refused", test_refused},
    {"reboot", test_reboot},   {"fault", test_fault},     {"lies", test_lies},
    {"hostile", test_hostile}, {"echo", test_echo},       {"dirty", test_dirty},
    {"button", test_button},   {"net", test_net},         {"load", test_load},
    {"steps", test_steps},     {"balloon", test_balloon}, {"scsi", test_scsi},
    {"scsi-lies", test_scsi_lies},
};

bool same(const char* line, const char* text) {
  while (*text != 0 && *line == *text) ++line, ++text;
  return *text == 0 && (*line == 0 || *line == ' ');
}

bool begins(const char* line, const char* text) {
  while (*text != 0 && *line == *text) ++line, ++text;
  return *text == 0;
}

}  // namespace

extern "C" void guest_main(uint32_t start_info) {
  require(read_at<uint32_t>(start_info) == 0x336ec578, "no PVH start info");
  const auto* line = reinterpret_cast<const char*>(read_at<uint32_t>(start_info + 24));
  while (*line != 0 && !begins(line, "test=")) ++line;
  require(*line != 0, "no test= on the command line");
  line += 5;
  for (const Test& test : tests) {
    if (!same(line, test.name)) continue;
    test.run();
    say("testguest: passed\n");
    power_off();
  }
  fail("no such test", 0);
}
