#include "scsi/tools/identity.h"

#include <algorithm>
#include <filesystem>

#include "blockdev/stores/nfs_uri.h"

namespace tidepool::scsi::tools {

namespace {

constexpr std::size_t longest_name = 223;  // RFC 7143 4.2.7.1
constexpr std::size_t longest_suffix = 64;

bool allowed(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == ':';
}

}  // namespace

std::string default_target_name(const std::string& disk) {
  std::string suffix;
  // Of a URI, without its options.
  const std::string place = blockdev::is_nfs_uri(disk) ? disk.substr(0, disk.find('?')) : disk;
  for (char c : std::filesystem::path(place).filename().string()) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + ('a' - 'A'));
    suffix += allowed(c) && c != ':' ? c : '-';
  }
  return "iqn.2026-11.tidepool:" + suffix.substr(0, longest_suffix);
}

Result<> check_target_name(const std::string& name) {
  if ((name.starts_with("iqn.") || name.starts_with("eui.") || name.starts_with("naa.")) &&
      name.size() <= longest_name && std::ranges::all_of(name, allowed))
    return {};
  return fail(ErrorKind::invalid_argument,
              "target name '{}': expected one like iqn.2026-11.org.example:disk, of small letters, "
              "digits, '.', '-' and ':'",
              name);
}

}  // namespace tidepool::scsi::tools
