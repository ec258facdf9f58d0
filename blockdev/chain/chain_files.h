// Chains by path: creating layers, opening a top layer with all its parents,
// checking that each parent is the one that was meant.
//
// Blocking; any thread. Layers are read and written through the page cache; the
// top layer's file is locked exclusively (shared when read-only), parents shared. A
// base that is an NBD export is told by its size only; when it goes away, what needs
// it waits until it is back.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "blockdev/chain/chain.h"

namespace tidepool::blockdev::chain {

struct NewLayer {
  std::filesystem::path path;    // must not exist
  std::uint64_t size = 0;        // bytes; 0: the parent's
  ParentKind kind = ParentKind::none;
  std::filesystem::path parent;  // a layer, a raw file or device, or an NBD URI, by `kind`
};

// Stable when it returns; nothing is left behind on failure. A parent layer that
// is active is sealed first: from then on nobody writes to it.
Result<> create_layer(const NewLayer& layer);

// Only the header of `path`; for tools.
Result<LayerHeader> read_layer_header(const std::filesystem::path& path);

// Where the parent of the layer at `layer` is; not for a URI.
std::filesystem::path parent_path(const std::filesystem::path& layer,
                                  const ParentReference& parent);

Result<std::shared_ptr<Chain>> open_chain(const std::filesystem::path& top,
                                          const ChainOptions& options);

// Seals the top layer as checkpoint `name` in the file `kept` and puts a new, empty
// top layer in its place by a rename. The chain must not be open. A crash may leave
// the top sealed and not yet replaced: called again with the same name, it goes on.
Result<> checkpoint_offline(const std::filesystem::path& top, const std::string& name,
                            const std::filesystem::path& kept);

// The same on a chain that open_chain() opened at `top` and that serves requests.
Result<> checkpoint_live(Chain& chain, const std::filesystem::path& top, const std::string& name,
                         const std::filesystem::path& kept);

}  // namespace tidepool::blockdev::chain
