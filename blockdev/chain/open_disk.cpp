#include "blockdev/chain/open_disk.h"

#include "blockdev/chain/chain_files.h"
#include "blockdev/stores/file_store.h"
#include "blockdev/stores/nbd_store.h"
#include "blockdev/stores/nfs_store.h"

namespace tidepool::blockdev::chain {

namespace {

template <class Store>
Result<std::shared_ptr<BlockStore>> as_store(Result<std::shared_ptr<Store>> opened) {
  if (!opened) return std::unexpected(opened.error());
  return std::shared_ptr<BlockStore>(std::move(*opened));
}

}  // namespace

Result<std::shared_ptr<BlockStore>> open_disk(const std::string& name, const DiskOptions& options) {
  const bool is_nfs = is_nfs_uri(name);
  if (is_nfs || is_nbd_uri(name)) {
    if (options.raw) {
      return fail(ErrorKind::invalid_argument, "{}: raw is for files; leave it out", name);
    }
    const RemoteOptions remote{.read_only = options.read_only};
    return is_nfs ? open_nfs_store(name, remote) : open_nbd_store(name, remote);
  }
  const auto header = read_layer_header(local_files(), name);
  const bool is_layer = header || header.error().kind == ErrorKind::corrupt ||
                        header.error().kind == ErrorKind::unsupported;
  if (options.raw) {
    if (is_layer) {
      return fail(ErrorKind::invalid_argument,
                  "'{}' is a layer of a chain: leave raw out, to use the chain", name);
    }
    return as_store(FileStore::open(name, {.read_only = options.read_only}));
  }
  if (header) return as_store(open_chain(local_files(), name, {.read_only = options.read_only}));
  if (header.error().kind != ErrorKind::invalid_argument) return std::unexpected(header.error());
  return fail(ErrorKind::invalid_argument,
              "'{}' is not a layer of a chain: say raw if it is a raw disk", name);
}

}  // namespace tidepool::blockdev::chain
