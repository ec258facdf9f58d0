#include "blockdev/stores/nfs_store.h"

#include "blockdev/stores/nfs_link.h"
#include "blockdev/stores/remote_session.h"
#include "blockdev/stores/remote_store.h"

namespace tidepool::blockdev {

Result<NfsStore> open_nfs_file(const std::string& uri, const RemoteOptions& options) {
  auto where = parse_nfs_uri(uri);
  if (!where) return std::unexpected(where.error());
  auto session =
      RemoteSession::open(std::make_unique<NfsEndpoint>(uri, std::move(*where), options), options);
  if (!session) return std::unexpected(session.error());
  const std::int64_t changed_ns = (*session)->facts().changed_ns;
  return NfsStore{make_remote_store(std::move(*session)), changed_ns};
}

Result<std::shared_ptr<BlockStore>> open_nfs_store(const std::string& uri,
                                                   const RemoteOptions& options) {
  auto opened = open_nfs_file(uri, options);
  if (!opened) return std::unexpected(opened.error());
  return std::move(opened->store);
}

}  // namespace tidepool::blockdev
