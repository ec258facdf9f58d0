#include "blockdev/stores/nfs_uri.h"

#include <charconv>
#include <limits>

namespace tidepool::blockdev {

namespace {

constexpr std::string_view scheme = "nfs://";
constexpr std::size_t longest_path = 1024, longest_name = 255;  // bytes, of the protocols

std::unexpected<Error> refuse(std::string_view uri, std::string_view why) {
  return fail(ErrorKind::invalid_argument,
              "'{}' is not an NFS URI, such as nfs://server/export/file?version=4: {}", uri, why);
}

bool read_number(std::string_view text, int least, int most, int& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc{} && end == text.data() + text.size() && out >= least && out <= most;
}

// Empty: it was taken.
std::string take_option(std::string_view option, NfsLocation& into) {
  const auto equals = option.find('=');
  const std::string_view name = option.substr(0, equals);
  const std::string_view value =
      equals == std::string_view::npos ? std::string_view() : option.substr(equals + 1);
  constexpr int any = std::numeric_limits<int>::max();
  bool good = false;
  if (name == "version") {
    int version = 0;
    good = read_number(value, 3, 4, version);
    into.version = static_cast<unsigned>(version);
  } else if (name == "nfsport") {
    good = read_number(value, 1, 65535, into.nfs_port);
  } else if (name == "mountport") {
    good = read_number(value, 1, 65535, into.mount_port);
  } else if (name == "uid") {
    good = read_number(value, 0, any, into.uid);
  } else if (name == "gid") {
    good = read_number(value, 0, any, into.gid);
  } else {
    return fmt::format("there is no option '{}' (but version, nfsport, mountport, uid, gid)", name);
  }
  return good ? "" : fmt::format("'{}' is no value of '{}'", value, name);
}

}  // namespace

bool is_nfs_uri(std::string_view text) { return text.starts_with(scheme); }

Result<NfsLocation> parse_nfs_uri(std::string_view uri) {
  if (!is_nfs_uri(uri)) return refuse(uri, "it does not begin with nfs://");
  if (uri.find('\0') != std::string_view::npos) return refuse(uri, "it holds a zero byte");
  std::string_view rest = uri.substr(scheme.size());
  const auto question = rest.find('?');
  std::string_view options;
  if (question != std::string_view::npos) {
    options = rest.substr(question + 1);
    rest = rest.substr(0, question);
  }
  NfsLocation found;
  const auto slash = rest.find('/');
  if (slash == std::string_view::npos) return refuse(uri, "the path is missing");
  std::string_view server = rest.substr(0, slash);
  if (server.starts_with('[') && server.ends_with(']') && server.size() > 2)
    server = server.substr(1, server.size() - 2);
  if (server.empty()) return refuse(uri, "the server is missing");
  found.server = server;
  const std::string_view path = rest.substr(slash);
  const auto last = path.rfind('/');
  found.file = path.substr(last + 1);
  if (found.file.empty() || found.file == "." || found.file == "..")
    return refuse(uri, "it names no file");
  std::string_view directory = path.substr(0, last);
  while (directory.ends_with('/')) directory.remove_suffix(1);
  found.directory = directory.empty() ? "/" : std::string(directory);
  if (path.size() > longest_path || found.file.size() > longest_name)
    return refuse(uri, "the path is too long");
  while (!options.empty()) {
    const auto ampersand = options.find('&');
    const auto option = options.substr(0, ampersand);
    options = ampersand == std::string_view::npos ? std::string_view()
                                                  : options.substr(ampersand + 1);
    if (option.empty()) continue;
    if (const auto why = take_option(option, found); !why.empty()) return refuse(uri, why);
  }
  return found;
}

}  // namespace tidepool::blockdev
