#include "blockdev/stores/nbd_store.h"

#include <algorithm>
#include <array>

#include "blockdev/stores/nbd_link.h"
#include "blockdev/stores/remote_session.h"
#include "blockdev/stores/remote_store.h"

namespace tidepool::blockdev {

namespace {

constexpr std::array uri_schemes{"nbd://",       "nbds://",      "nbd+unix://",
                                 "nbds+unix://", "nbd+vsock://", "nbds+vsock://"};

}  // namespace

bool is_nbd_uri(std::string_view text) {
  return std::ranges::any_of(uri_schemes,
                             [&](const char* scheme) { return text.starts_with(scheme); });
}

Result<std::shared_ptr<BlockStore>> open_nbd_store(const std::string& uri,
                                                   const RemoteOptions& options) {
  if (!is_nbd_uri(uri)) {
    return fail(ErrorKind::invalid_argument,
                "'{}' is not an NBD URI, such as nbd://host/export or "
                "nbd+unix:///export?socket=PATH",
                uri);
  }
  auto session = RemoteSession::open(std::make_unique<NbdEndpoint>(uri), options);
  if (!session) return std::unexpected(session.error());
  return make_remote_store(std::move(*session));
}

}  // namespace tidepool::blockdev
