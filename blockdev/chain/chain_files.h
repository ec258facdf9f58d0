// Chains by path: creating layers, opening a top layer with all its parents,
// checking that each parent is the one that was meant.
//
// Blocking; any thread. The top layer's file is locked exclusively (shared when
// read-only), parents shared. A base that is an NBD export is told by its size only;
// when it or a file on NFS goes away, what needs it waits until it is back.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "blockdev/chain/chain.h"
#include "blockdev/chain/file_system.h"

namespace tidepool::blockdev::chain {

struct NewLayer {
  std::filesystem::path path;    // must not exist
  std::uint64_t size = 0;        // bytes; 0: the parent's
  ParentKind kind = ParentKind::none;
  std::filesystem::path parent;  // a layer, a raw file or device, or a URI, by `kind`
};

// Stable when it returns; nothing is left behind on failure. A parent layer that
// is active is sealed first: from then on nobody writes to it.
Result<> create_layer(FileSystem& files, const NewLayer& layer);
// The file of a new layer; its name is not stable yet.
Result<std::unique_ptr<LayerFile>> write_layer(FileSystem& files, const std::filesystem::path& path,
                                               LayerHeader header);

// Only the header of `path`, without a lock; for tools.
Result<LayerHeader> read_layer_header(FileSystem& files, const std::filesystem::path& path);
// `loop`: as LayerFile::open has it.
Result<std::unique_ptr<LayerFile>> open_layer(FileSystem& files, const std::filesystem::path& path,
                                              bool read_only, EventLoop* loop = nullptr);

// Where the parent of the layer at `layer` is, not for a URI; and how a layer at `layer` names it:
// relative where that is within its directory, so that both can be moved together.
std::filesystem::path parent_path(const std::filesystem::path& layer,
                                  const ParentReference& parent);
std::string location_of(const std::filesystem::path& parent, const std::filesystem::path& layer);

// Those beside `path` that stand on it, which is the layer `header` (null: a raw file).
// Layers made in another directory are found by the links that create_layer() leaves.
Result<std::vector<std::filesystem::path>> layers_on(FileSystem& files,
                                                     const std::filesystem::path& path,
                                                     const LayerHeader* header);

// For writing, it first ends a checkpoint that a crash cut short.
Result<std::shared_ptr<Chain>> open_chain(FileSystem& files, const std::filesystem::path& top,
                                          const ChainOptions& options);

}  // namespace tidepool::blockdev::chain
