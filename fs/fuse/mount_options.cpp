#include "fs/fuse/mount_options.h"

#include <algorithm>
#include <array>
#include <charconv>

namespace tidepool::elasticfs {

namespace {

constexpr std::array passed_on = {"allow_other", "allow_root", "dev",    "nodev", "suid",
                                  "nosuid",      "exec",       "noexec", "atime", "noatime",
                                  "diratime",    "nodiratime", "sync",   "async", "dirsync"};
constexpr std::array ignored = {"rw",         "auto",        "noauto",   "nofail",
                                "_netdev",    "defaults",    "user",     "users",
                                "nouser",     "owner",       "group",    "relatime",
                                "norelatime", "strictatime", "lazytime", "default_permissions"};

template <std::size_t n>
bool contains(const std::array<const char*, n>& list, std::string_view word) {
  return std::ranges::find(list, word) != list.end();
}

Result<unsigned> number(std::string_view name, std::string_view value, unsigned low,
                        unsigned high) {
  unsigned n = 0;
  auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), n);
  if (error != std::errc{} || end != value.data() + value.size() || n < low || n > high)
    return fail(ErrorKind::invalid_argument, "mount option {}={}: a number from {} to {} is meant",
                name, value, low, high);
  return n;
}

Result<> parse_one(std::string_view option, MountOptions& o) {
  std::string_view name = option.substr(0, option.find('='));
  std::string_view value = name.size() < option.size() ? option.substr(name.size() + 1) : "";
  if (name == "loops" || name == "spin") {
    auto n = name == "loops" ? number(name, value, 1, 64) : number(name, value, 0, 1000);
    if (!n) return std::unexpected(n.error());
    (name == "loops" ? o.loops : o.spin_us) = *n;
  } else if (name == "vhost-user-dir") {
    if (value.empty())
      return fail(ErrorKind::invalid_argument,
                  "mount option vhost-user-dir: a directory is meant, vhost-user-dir=DIR");
    o.vhost_user_directory = value;
  } else if (option == "ro") {
    o.read_only = true;
  } else if (option == "io_uring") {
    o.io_uring = MountOptions::IoUring::on;
  } else if (option == "no_io_uring") {
    o.io_uring = MountOptions::IoUring::off;
  } else if (contains(passed_on, option)) {
    o.kernel.emplace_back(option);
  } else if (!contains(ignored, option) && !option.starts_with("x-") &&
             !option.starts_with("comment=") && !option.starts_with("X-")) {
    return fail(ErrorKind::invalid_argument, "unknown mount option '{}'; see elasticfs --help",
                option);
  }
  return {};
}

}  // namespace

Result<> parse_mount_options(std::string_view text, MountOptions& options) {
  while (!text.empty()) {
    std::size_t comma = std::min(text.find(','), text.size());
    std::string_view option = text.substr(0, comma);
    text.remove_prefix(std::min(comma + 1, text.size()));
    if (option.empty()) continue;
    if (auto r = parse_one(option, options); !r) return r;
  }
  return {};
}

}  // namespace tidepool::elasticfs
