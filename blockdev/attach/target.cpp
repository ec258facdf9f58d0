#include "blockdev/attach/target.h"

#include <sys/stat.h>

#include <cerrno>
#include <filesystem>

#include "blockdev/chain/chain_files.h"

namespace tidepool::blockdev::attach {

namespace {

Result<Target> find_uri(const std::string& uri) {
  const std::string scheme = uri.substr(0, uri.find("://"));
  if (scheme.starts_with("nbds")) {
    return fail(ErrorKind::unsupported,
                "{}: the kernel's NBD client cannot speak TLS; use nbd:// over a link that is "
                "protected by other means",
                uri);
  }
  if (!scheme.starts_with("nbd"))
    return fail(ErrorKind::invalid_argument, "{} is not an NBD URI: it begins with nbd", uri);
  return Target{.kind = TargetKind::uri, .location = uri};
}

}  // namespace

const char* to_text(TargetKind kind) {
  switch (kind) {
    case TargetKind::chain: return "chain";
    case TargetKind::raw: return "raw";
    case TargetKind::uri: return "uri";
  }
  return "?";
}

Result<Target> find_target(const std::string& argument, bool raw) {
  if (argument.find("://") != std::string::npos) {
    if (raw)
      return fail(ErrorKind::invalid_argument, "{}: --raw is for files; leave it out", argument);
    return find_uri(argument);
  }
  struct stat status{};
  if (::stat(argument.c_str(), &status) != 0)
    return fail_errno(errno, "cannot attach '" + argument + "'");
  if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode)) {
    return fail(ErrorKind::invalid_argument, "cannot attach '{}': neither a file nor a disk",
                argument);
  }
  std::error_code error;
  const auto path = std::filesystem::canonical(argument, error);
  if (error) return fail_errno(error.value(), "cannot attach '" + argument + "'");

  const auto header = chain::read_layer_header(chain::local_files(), path);
  const bool is_layer = header || header.error().kind == ErrorKind::corrupt ||
                        header.error().kind == ErrorKind::unsupported;
  if (raw && is_layer) {
    return fail(ErrorKind::invalid_argument,
                "'{}' is a layer of a chain: leave --raw out, to attach the chain", argument);
  }
  if (raw) return Target{.kind = TargetKind::raw, .location = path.native()};
  if (header) {
    return Target{.kind = TargetKind::chain,
                  .location = path.native(),
                  .sealed = header->state == chain::LayerState::sealed};
  }
  if (header.error().kind != ErrorKind::invalid_argument) return std::unexpected(header.error());
  return fail(ErrorKind::invalid_argument,
              "'{}' is not a layer of a chain: give --raw if it is a raw disk", argument);
}

}  // namespace tidepool::blockdev::attach
