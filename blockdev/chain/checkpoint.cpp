#include "blockdev/chain/checkpoint.h"

#include <utility>

#include "blockdev/chain/chain_files.h"

namespace tidepool::blockdev::chain {

namespace {

namespace fs = std::filesystem;

fs::path fresh_path(const fs::path& top) { return top.native() + ".new"; }

// The empty layer that will replace `top`, on what is kept as `kept`. Stable, so
// that a sealed top always has its successor.
Result<std::unique_ptr<LayerFile>> write_fresh(FileSystem& files, const fs::path& top,
                                               const fs::path& kept, const LayerHeader& old) {
  auto header = lay_out_layer(old.size);
  if (!header) return std::unexpected(header.error());
  header->parent = {.kind = ParentKind::layer,
                    .location = location_of(kept, top),
                    .uuid = old.uuid,
                    .content = old.content + 1,
                    .size = old.size};
  // One of an earlier try holds nothing.
  if (auto r = files.remove(fresh_path(top)); !r) return std::unexpected(r.error());
  auto layer = write_layer(files, fresh_path(top), std::move(*header));
  if (!layer) return layer;
  if (auto r = files.sync_directory(top); !r) return std::unexpected(r.error());
  return layer;
}

// From here on `kept` names the old layer and `top` the fresh one.
Result<> exchange(FileSystem& files, const fs::path& top, const fs::path& kept) {
  if (auto r = files.link(top, kept); !r) return r;
  // Were only the rename stable, the old layer would have no name.
  if (auto r = files.sync_directory(kept); !r) return r;
  if (auto r = files.rename(fresh_path(top), top); !r) return r;
  return files.sync_directory(top);
}

}  // namespace

Result<Chain::Held> take_checkpoint(FileSystem& files, Chain& chain, const fs::path& top,
                                    const std::string& name, const fs::path& kept,
                                    MergeState merge) {
  if ((name.empty() && merge == MergeState::none) || name.size() > LayerHeader::name_limit) {
    return fail(ErrorKind::invalid_argument, "a checkpoint's name has 1 to {} bytes",
                LayerHeader::name_limit);
  }
  return chain.checkpoint(
      {.name = name,
       .merge = merge,
       .prepare = [&](LayerFile& old) -> Result<std::unique_ptr<LayerFile>> {
         if (files.exists(kept))
           return fail(ErrorKind::exists, "'{}' exists already", kept.native());
         return write_fresh(files, top, kept, old.header());
       },
       .publish = [&](LayerFile& old, LayerFile& fresh) -> Result<> {
         if (auto r = exchange(files, top, kept); !r) return r;
         old.set_name(kept.native());
         fresh.set_name(top.native());
         return files.share(old.locked_store());
       }});
}

Result<> finish_checkpoint(FileSystem& files, const fs::path& top) {
  if (!files.exists(fresh_path(top))) return {};
  const auto sealed = read_layer_header(files, top);
  if (!sealed || sealed->state != LayerState::sealed) return {};
  const auto fresh = read_layer_header(files, fresh_path(top));
  if (!fresh || fresh->parent.uuid != sealed->uuid || fresh->parent.content != sealed->content)
    return {};
  // A server that is between the two steps holds this lock.
  auto lock = files.open(top, false);
  if (!lock) return std::unexpected(lock.error());
  return exchange(files, top, parent_path(top, fresh->parent));
}

}  // namespace tidepool::blockdev::chain
