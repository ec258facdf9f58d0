#include "blockdev/chain/chain_files.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <ctime>
#include <set>
#include <utility>

#include "base/size_text.h"
#include "blockdev/chain/checkpoint.h"
#include "blockdev/stores/nbd_store.h"
#include "blockdev/stores/nfs_store.h"

namespace tidepool::blockdev::chain {

namespace {

namespace fs = std::filesystem;

Result<ParentReference> refer_to_layer(FileSystem& files, const fs::path& parent,
                                       const fs::path& layer) {
  auto header = read_layer_header(files, parent);
  if (!header) return std::unexpected(header.error());
  if (header->state == LayerState::active) {
    auto file = open_layer(files, parent, false);
    if (!file) return std::unexpected(file.error());
    std::mutex lock;
    if (auto sealed = (*file)->seal(lock, ""); !sealed) return std::unexpected(sealed.error());
    header = (*file)->header();
  }
  return ParentReference{.kind = ParentKind::layer,
                         .location = location_of(parent, layer),
                         .uuid = header->uuid,
                         .content = header->content,
                         .size = header->size};
}

Result<ParentReference> refer_to_file(FileSystem& files, const fs::path& parent,
                                      const fs::path& layer) {
  auto store = files.open(parent, true);
  if (!store) return std::unexpected(store.error());
  auto changed = files.change_time(parent);
  if (!changed) return std::unexpected(changed.error());
  return ParentReference{.kind = ParentKind::file,
                         .location = location_of(parent, layer),
                         .size = (*store)->geometry().size,
                         .changed_ns = *changed};
}

Result<ParentReference> refer_to_nbd(const std::string& uri) {
  constexpr std::string_view socket = "socket=";
  const auto at = uri.find(socket);
  if (at != std::string::npos && !uri.substr(at + socket.size()).starts_with('/')) {
    return fail(ErrorKind::invalid_argument,
                "'{}': give the socket's path from the root on, the chain may be opened from "
                "another directory",
                uri);
  }
  auto store = open_nbd_store(uri, {.read_only = true});
  if (!store) return std::unexpected(store.error());
  return ParentReference{
      .kind = ParentKind::nbd, .location = uri, .size = (*store)->geometry().size};
}

Result<ParentReference> refer_to_nfs(const std::string& uri) {
  auto file = open_nfs_file(uri, {.read_only = true});
  if (!file) return std::unexpected(file.error());
  return ParentReference{.kind = ParentKind::nfs,
                         .location = uri,
                         .size = file->store->geometry().size,
                         .changed_ns = file->changed_ns};
}

Result<ParentReference> refer_to_parent(FileSystem& files, const NewLayer& layer) {
  switch (layer.kind) {
    case ParentKind::none: return ParentReference{};
    case ParentKind::layer: return refer_to_layer(files, layer.parent, layer.path);
    case ParentKind::file: return refer_to_file(files, layer.parent, layer.path);
    case ParentKind::nbd: return refer_to_nbd(layer.parent.native());
    case ParentKind::nfs:
      return refer_to_nfs(layer.parent.native());
  }
  return fail(ErrorKind::invalid_argument, "'{}': no such kind of parent", layer.path.native());
}

std::unexpected<Error> not_the_parent(const fs::path& layer, const fs::path& parent,
                                      std::string_view why) {
  return fail(ErrorKind::corrupt, "layer '{}': '{}' is not the parent it was made on: {}",
              layer.native(), parent.native(), why);
}

Result<> check_layer(const fs::path& layer, const LayerHeader& child, const fs::path& path,
                     const LayerHeader& found) {
  const ParentReference& wanted = child.parent;
  if (found.uuid != wanted.uuid) {
    return not_the_parent(layer, path,
                          fmt::format("its UUID is {}, not {}", to_text(found.uuid),
                                      to_text(wanted.uuid)));
  }
  if (found.state != LayerState::sealed) return not_the_parent(layer, path, "it is not sealed");
  // What the parent takes from this layer is what it holds since it goes down: an older
  // copy of it would show through to newer blocks.
  const bool takes_us = found.merge_with == child.uuid && child.merge == MergeState::goes_down;
  if (found.merge == MergeState::takes_child && !takes_us) {
    return not_the_parent(layer, path,
                          "another layer, or this one as it was later, is being committed into it");
  }
  const bool took_us = found.merge == MergeState::took_child && takes_us;
  if (found.content != wanted.content + (took_us ? 1 : 0))
    return not_the_parent(layer, path, "its content was changed since");
  return {};
}

Result<> check_base(const fs::path& layer, const fs::path& base, const ParentReference& wanted,
                    std::uint64_t size, std::int64_t changed_ns) {
  if (size != wanted.size) return not_the_parent(layer, base, "its size was changed since");
  if (wanted.changed_ns != 0 && changed_ns != wanted.changed_ns)
    return not_the_parent(layer, base, "it was written to since");
  return {};
}

Result<std::shared_ptr<BlockStore>> open_remote_base(const fs::path& layer,
                                                     const ParentReference& wanted) {
  NfsStore base;
  if (wanted.kind == ParentKind::nfs) {
    auto file = open_nfs_file(wanted.location, {.read_only = true});
    if (!file) return std::unexpected(file.error());
    base = std::move(*file);
  } else {
    auto store = open_nbd_store(wanted.location, {.read_only = true});
    if (!store) return std::unexpected(store.error());
    base.store = std::move(*store);
  }
  const std::uint64_t size = base.store->geometry().size;
  if (auto r = check_base(layer, wanted.location, wanted, size, base.changed_ns); !r)
    return std::unexpected(r.error());
  return std::move(base.store);
}

Result<std::shared_ptr<BlockStore>> open_base(FileSystem& files, const fs::path& layer,
                                              const LayerHeader& child, const fs::path& path) {
  const ParentReference& wanted = child.parent;
  if (wanted.kind == ParentKind::nbd || wanted.kind == ParentKind::nfs)
    return open_remote_base(layer, wanted);
  auto store = files.open(path, true);
  if (!store) return std::unexpected(store.error());
  if (child.merge == MergeState::goes_down) return *store;  // it may be half written to
  const std::uint64_t size = (*store)->geometry().size;
  auto changed = files.change_time(path);
  if (!changed) return std::unexpected(changed.error());
  if (auto r = check_base(layer, path, wanted, size, *changed); !r)
    return std::unexpected(r.error());
  return *store;
}

Error missing_parent(const fs::path& layer, const fs::path& path, Error error) {
  if (error.kind == ErrorKind::not_found) {
    error.message = fmt::format("layer '{}': its parent '{}' is missing", layer.native(), path.native());
  }
  return error;
}

}  // namespace

std::string location_of(const fs::path& parent, const fs::path& layer) {
  const fs::path absolute = fs::absolute(parent).lexically_normal();
  const fs::path relative =
      absolute.lexically_relative(fs::absolute(layer).lexically_normal().parent_path());
  const bool inside = !relative.empty() && *relative.begin() != "..";
  return inside ? relative.native() : absolute.native();
}

fs::path parent_path(const fs::path& layer, const ParentReference& parent) {
  const fs::path location = parent.location;
  return location.is_absolute() ? location : layer.parent_path() / location;
}

Result<LayerHeader> read_layer_header(FileSystem& files, const fs::path& path) {
  std::array<std::byte, 2 * LayerHeader::encoded_size> slots{};
  if (auto got = files.read_start(path, slots); !got) return std::unexpected(got.error());
  return read_header(slots, path.native());
}

Result<std::unique_ptr<LayerFile>> open_layer(FileSystem& files, const fs::path& path,
                                              bool read_only, EventLoop* loop) {
  auto store = files.open(path, read_only);
  if (!store) return std::unexpected(store.error());
  auto layer = LayerFile::open(std::move(*store), loop);
  if (layer) (*layer)->set_name(path.native());
  return layer;
}

Result<std::unique_ptr<LayerFile>> write_layer(FileSystem& files, const fs::path& path,
                                               LayerHeader header) {
  header.created_seconds = std::time(nullptr);
  auto store = files.create(path, header.file_bytes());
  if (!store) return std::unexpected(store.error());
  auto layer = LayerFile::create(std::move(*store), std::move(header));
  if (!layer) (void)files.remove(path);
  return layer;
}

Result<> create_layer(FileSystem& files, const NewLayer& layer) {
  auto reference = refer_to_parent(files, layer);
  if (!reference) return std::unexpected(reference.error());
  ParentReference parent = std::move(*reference);
  std::uint64_t size = layer.size != 0 ? layer.size : (parent.size + 511) / 512 * 512;
  if (size < parent.size) {
    return fail(ErrorKind::invalid_argument, "'{}': {} is less than its parent has, {}",
                layer.path.native(), format_size(size), format_size(parent.size));
  }
  if (parent.location.size() > LayerHeader::location_limit) {
    return fail(ErrorKind::invalid_argument, "the parent's path or URI is longer than {} bytes",
                LayerHeader::location_limit);
  }
  auto header = lay_out_layer(size);
  if (!header) return std::unexpected(header.error());
  header->parent = std::move(parent);
  const std::string tag = to_text(header->uuid).substr(0, 8);
  if (auto r = write_layer(files, layer.path, std::move(*header)); !r)
    return std::unexpected(r.error());
  if (layer.kind == ParentKind::layer || layer.kind == ParentKind::file)
    files.leave_link(layer.path, layer.parent, tag);
  return files.sync_directory(layer.path);
}

Result<std::vector<fs::path>> layers_on(FileSystem& files, const fs::path& path,
                                        const LayerHeader* header) {
  auto beside = files.beside(path);
  if (!beside) return std::unexpected(beside.error());
  std::vector<fs::path> found;
  for (const fs::path& candidate : *beside) {
    const auto other = read_layer_header(files, candidate);
    if (!other) continue;
    const ParentReference& parent = other->parent;
    const bool stands = header ? parent.kind == ParentKind::layer && parent.uuid == header->uuid
                               : parent.kind == ParentKind::file &&
                                     files.same(parent_path(candidate, parent), path);
    if (stands) found.push_back(candidate);
  }
  return found;
}

Result<std::shared_ptr<Chain>> open_chain(FileSystem& files, const fs::path& top,
                                          const ChainOptions& options) {
  std::vector<std::unique_ptr<LayerFile>> layers;
  std::shared_ptr<BlockStore> base;
  std::set<Uuid> seen;
  if (!options.read_only) {
    if (auto r = finish_checkpoint(files, top); !r) return std::unexpected(r.error());
  }
  auto loop = SyncChannel::make_loop();
  if (!loop) return std::unexpected(loop.error());
  fs::path path = top;
  for (bool read_only = options.read_only;; read_only = true) {
    auto layer = open_layer(files, path, read_only, loop->get());
    if (!layer && layers.empty()) return std::unexpected(layer.error());
    if (!layer) return std::unexpected(missing_parent(layers.back()->name(), path, layer.error()));
    const LayerHeader& header = (*layer)->header();
    if (layers.empty() && header.merge == MergeState::takes_child) {
      return fail(ErrorKind::corrupt,
                  "'{}' is no disk of its own now: a commit into it was not finished; give the "
                  "command again",
                  top.native());
    }
    if (!layers.empty()) {
      const LayerFile& child = *layers.back();
      if (auto r = check_layer(child.name(), child.header(), path, header); !r)
        return std::unexpected(r.error());
    }
    if (!seen.insert(header.uuid).second || seen.size() > most_layers) {
      return fail(ErrorKind::corrupt, "chain '{}': layer '{}' comes twice, or it is too long",
                  top.native(), path.native());
    }
    layers.push_back(std::move(*layer));
    const ParentReference& parent = layers.back()->header().parent;
    if (parent.kind == ParentKind::none) break;
    const bool remote = parent.kind == ParentKind::nbd || parent.kind == ParentKind::nfs;
    const fs::path next = remote ? fs::path(parent.location) : parent_path(path, parent);
    if (parent.kind != ParentKind::layer) {
      auto opened = open_base(files, path, layers.back()->header(), next);
      if (!opened) return std::unexpected(missing_parent(path, next, opened.error()));
      base = std::move(*opened);
      break;
    }
    path = next;
  }
  std::reverse(layers.begin(), layers.end());
  return Chain::assemble(std::move(base), std::move(layers), options);
}

}  // namespace tidepool::blockdev::chain
