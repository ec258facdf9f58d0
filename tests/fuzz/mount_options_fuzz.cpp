// The text behind -o: whatever is accepted is within its bounds.
#include <string_view>

#include "fs/fuse/mount_options.h"
#include "tests/fuzz/target.h"

namespace tidepool::test {

std::vector<Input> seeds() {
  std::vector<Input> inputs;
  for (std::string_view text :
       {"ro", "rw,allow_other", "loops=4,spin=50", "io_uring,noatime", "x-systemd.automount",
        "_netdev,noauto,nofail", "loops=0", "spin=99999999999999999999", "no_io_uring", ",,,"}) {
    auto bytes = std::as_bytes(std::span(text));
    inputs.emplace_back(bytes.begin(), bytes.end());
  }
  return inputs;
}

void run_one(std::span<const std::byte> input) {
  elasticfs::MountOptions options;
  auto parsed = elasticfs::parse_mount_options(
      {reinterpret_cast<const char*>(input.data()), input.size()}, options);
  if (!parsed) return require(!parsed.error().message.empty(), "an error says something");
  require(options.loops >= 1 && options.loops <= 64, "loops are in bounds");
  require(options.spin_us <= 1000, "spinning is in bounds");
}

}  // namespace tidepool::test
