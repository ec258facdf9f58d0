#include "base/uuid.h"

#include <fmt/format.h>
#include <sys/random.h>

namespace tidepool {

Uuid new_uuid() {
  Uuid uuid;
  std::size_t filled = 0;
  while (filled < uuid.size()) {
    ssize_t got = getrandom(uuid.data() + filled, uuid.size() - filled, 0);
    if (got > 0) filled += static_cast<std::size_t>(got);
  }
  uuid[6] = static_cast<std::uint8_t>((uuid[6] & 0x0f) | 0x40);
  uuid[8] = static_cast<std::uint8_t>((uuid[8] & 0x3f) | 0x80);
  return uuid;
}

std::string to_text(const Uuid& uuid) {
  std::string text;
  for (std::size_t i = 0; i < uuid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", uuid[i]);
  }
  return text;
}

}  // namespace tidepool
