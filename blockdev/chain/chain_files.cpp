#include "blockdev/chain/chain_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <set>
#include <utility>

#include "base/size_text.h"
#include "base/unique_fd.h"
#include "blockdev/stores/file_store.h"
#include "blockdev/stores/nbd_store.h"

namespace tidepool::blockdev::chain {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t most_layers = 16'384;
constexpr mode_t layer_mode = 0600;

Result<std::shared_ptr<FileStore>> open_file(const fs::path& path, bool read_only) {
  return FileStore::open(path, {.read_only = read_only, .direct = false});
}

Result<std::unique_ptr<LayerFile>> open_layer(const fs::path& path, bool read_only) {
  auto store = open_file(path, read_only);
  if (!store) return std::unexpected(store.error());
  return LayerFile::open(std::move(*store));
}

Result<> sync_directory_of(const fs::path& path) {
  const fs::path directory = path.has_parent_path() ? path.parent_path() : ".";
  UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0)
    return fail_errno(errno, fmt::format("cannot flush the directory '{}'", directory.native()));
  return {};
}

// A regular file's last change; 0 for a device.
Result<std::int64_t> change_time(const fs::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0)
    return fail_errno(errno, fmt::format("cannot look at '{}'", path.native()));
  if (!S_ISREG(status.st_mode)) return 0;
  return std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
}

// How the layer at `layer` names its parent: relative where that is within its
// directory, so that both can be moved together.
std::string location_of(const fs::path& parent, const fs::path& layer) {
  const fs::path absolute = fs::absolute(parent).lexically_normal();
  const fs::path relative =
      absolute.lexically_relative(fs::absolute(layer).lexically_normal().parent_path());
  const bool inside = !relative.empty() && *relative.begin() != "..";
  return inside ? relative.native() : absolute.native();
}

Result<ParentReference> refer_to_layer(const fs::path& parent, const fs::path& layer) {
  auto header = read_layer_header(parent);
  if (!header) return std::unexpected(header.error());
  if (header->state == LayerState::active) {
    auto file = open_layer(parent, false);
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

Result<ParentReference> refer_to_file(const fs::path& parent, const fs::path& layer) {
  auto store = open_file(parent, true);
  if (!store) return std::unexpected(store.error());
  auto changed = change_time(parent);
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
  auto store = NbdStore::open(uri, {.read_only = true});
  if (!store) return std::unexpected(store.error());
  return ParentReference{
      .kind = ParentKind::nbd, .location = uri, .size = (*store)->geometry().size};
}

Result<ParentReference> refer_to_parent(const NewLayer& layer) {
  switch (layer.kind) {
    case ParentKind::none: return ParentReference{};
    case ParentKind::layer: return refer_to_layer(layer.parent, layer.path);
    case ParentKind::file: return refer_to_file(layer.parent, layer.path);
    case ParentKind::nbd: return refer_to_nbd(layer.parent.native());
  }
  return fail(ErrorKind::invalid_argument, "'{}': no such kind of parent", layer.path.native());
}

// An empty layer at `path`, which must not exist. Its name in the directory is not
// flushed yet.
Result<std::unique_ptr<LayerFile>> write_new(const fs::path& path, LayerHeader header) {
  header.created_seconds = std::time(nullptr);
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, layer_mode));
  if (!fd) return fail_errno(errno, fmt::format("cannot create '{}'", path.native()));
  const auto make = [&]() -> Result<std::unique_ptr<LayerFile>> {
    if (::ftruncate(fd.get(), static_cast<off_t>(header.file_bytes())) != 0) {
      return fail_errno(errno, fmt::format("cannot make '{}' {} large (of which nothing is used yet)",
                                           path.native(), format_size(header.file_bytes())));
    }
    auto store = open_file(path, false);
    if (!store) return std::unexpected(store.error());
    return LayerFile::create(std::move(*store), std::move(header));
  };
  auto layer = make();
  if (!layer) ::unlink(path.c_str());
  return layer;
}

std::unexpected<Error> not_the_parent(const fs::path& layer, const fs::path& parent,
                                      std::string_view why) {
  return fail(ErrorKind::corrupt, "layer '{}': '{}' is not the parent it was made on: {}",
              layer.native(), parent.native(), why);
}

Result<> check_layer(const fs::path& layer, const ParentReference& wanted, const fs::path& path,
                     const LayerHeader& found) {
  if (found.uuid != wanted.uuid) {
    return not_the_parent(layer, path,
                          fmt::format("its UUID is {}, not {}", to_text(found.uuid),
                                      to_text(wanted.uuid)));
  }
  if (found.state != LayerState::sealed) return not_the_parent(layer, path, "it is not sealed");
  if (found.content != wanted.content)
    return not_the_parent(layer, path, "its content was changed since");
  return {};
}

Result<std::shared_ptr<BlockStore>> open_remote_base(const fs::path& layer,
                                                     const ParentReference& wanted) {
  auto store = NbdStore::open(wanted.location, {.read_only = true});
  if (!store) return std::unexpected(store.error());
  if ((*store)->geometry().size != wanted.size)
    return not_the_parent(layer, wanted.location, "its size was changed since");
  return *store;
}

Result<std::shared_ptr<BlockStore>> open_base(const fs::path& layer, const ParentReference& wanted,
                                              const fs::path& path) {
  if (wanted.kind == ParentKind::nbd) return open_remote_base(layer, wanted);
  auto store = open_file(path, true);
  if (!store) return std::unexpected(store.error());
  if ((*store)->geometry().size != wanted.size)
    return not_the_parent(layer, path, "its size was changed since");
  auto changed = change_time(path);
  if (!changed) return std::unexpected(changed.error());
  if (wanted.changed_ns != 0 && *changed != wanted.changed_ns)
    return not_the_parent(layer, path, "it was written to since");
  return *store;
}

}  // namespace

fs::path parent_path(const fs::path& layer, const ParentReference& parent) {
  const fs::path location = parent.location;
  return location.is_absolute() ? location : layer.parent_path() / location;
}

Result<LayerHeader> read_layer_header(const fs::path& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return fail_errno(errno, fmt::format("cannot open '{}'", path.native()));
  std::array<std::byte, 2 * LayerHeader::encoded_size> slots{};
  if (::pread(fd.get(), slots.data(), slots.size(), 0) < 0)
    return fail_errno(errno, fmt::format("cannot read '{}'", path.native()));
  return read_header(slots, path.native());
}

Result<> create_layer(const NewLayer& layer) {
  auto reference = refer_to_parent(layer);
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
  if (auto r = write_new(layer.path, std::move(*header)); !r) return std::unexpected(r.error());
  return sync_directory_of(layer.path);
}

Result<std::shared_ptr<Chain>> open_chain(const fs::path& top, const ChainOptions& options) {
  std::vector<std::unique_ptr<LayerFile>> layers;
  std::shared_ptr<BlockStore> base;
  std::set<Uuid> seen;
  fs::path path = top;
  for (bool read_only = options.read_only;; read_only = true) {
    auto layer = open_layer(path, read_only);
    if (!layer) return std::unexpected(layer.error());
    if (!layers.empty()) {
      const LayerFile& child = *layers.back();
      if (auto r = check_layer(child.name(), child.header().parent, path, (*layer)->header()); !r)
        return std::unexpected(r.error());
    }
    if (!seen.insert((*layer)->header().uuid).second || seen.size() > most_layers) {
      return fail(ErrorKind::corrupt, "chain '{}': layer '{}' comes twice, or it is too long",
                  top.native(), path.native());
    }
    layers.push_back(std::move(*layer));
    const ParentReference& parent = layers.back()->header().parent;
    if (parent.kind == ParentKind::none) break;
    const fs::path next = parent_path(path, parent);
    if (parent.kind != ParentKind::layer) {
      auto opened = open_base(path, parent, next);
      if (!opened) return std::unexpected(opened.error());
      base = std::move(*opened);
      break;
    }
    path = next;
  }
  std::reverse(layers.begin(), layers.end());
  return Chain::assemble(std::move(base), std::move(layers), options);
}

namespace {

Result<> check_name(const std::string& name) {
  if (!name.empty() && name.size() <= LayerHeader::name_limit) return {};
  return fail(ErrorKind::invalid_argument, "a checkpoint's name has 1 to {} bytes",
              LayerHeader::name_limit);
}

fs::path fresh_path(const fs::path& top) { return top.native() + ".new"; }

// The empty layer that will replace `top`, on what is kept as `kept` and has then
// the content number `content`.
Result<std::unique_ptr<LayerFile>> write_fresh(const fs::path& top, const fs::path& kept,
                                               const LayerHeader& old, std::uint64_t content) {
  auto header = lay_out_layer(old.size);
  if (!header) return std::unexpected(header.error());
  header->parent = {.kind = ParentKind::layer,
                    .location = location_of(kept, top),
                    .uuid = old.uuid,
                    .content = content,
                    .size = old.size};
  ::unlink(fresh_path(top).c_str());  // of an earlier try
  return write_new(fresh_path(top), std::move(*header));
}

bool same_file(const fs::path& one, const fs::path& other) {
  struct stat here {}, there {};
  return ::stat(one.c_str(), &here) == 0 && ::stat(other.c_str(), &there) == 0 &&
         here.st_ino == there.st_ino && here.st_dev == there.st_dev;
}

// From here on `kept` names the old layer and `top` the fresh one.
Result<> exchange(const fs::path& top, const fs::path& kept) {
  if (::link(top.c_str(), kept.c_str()) != 0 && !(errno == EEXIST && same_file(top, kept)))
    return fail_errno(errno, fmt::format("cannot keep the layer as '{}'", kept.native()));
  const fs::path fresh = fresh_path(top);
  if (::rename(fresh.c_str(), top.c_str()) != 0)
    return fail_errno(errno, fmt::format("cannot rename '{}' to '{}'", fresh.native(), top.native()));
  return sync_directory_of(top);
}

}  // namespace

Result<> checkpoint_offline(const fs::path& top, const std::string& name, const fs::path& kept) {
  if (auto r = check_name(name); !r) return r;
  auto layer = open_layer(top, false);
  if (!layer) return std::unexpected(layer.error());
  if ((*layer)->header().state == LayerState::active) {
    std::mutex lock;
    if (auto r = (*layer)->seal(lock, name); !r) return r;
  } else if ((*layer)->header().name != name) {
    return fail(ErrorKind::exists, "'{}' is sealed already, as checkpoint '{}'", top.native(),
                (*layer)->header().name);
  }
  const LayerHeader& sealed = (*layer)->header();
  if (auto r = write_fresh(top, kept, sealed, sealed.content); !r)
    return std::unexpected(r.error());
  return exchange(top, kept);
}

Result<> checkpoint_live(Chain& chain, const fs::path& top, const std::string& name,
                         const fs::path& kept) {
  if (auto r = check_name(name); !r) return r;
  return chain.checkpoint(
      {.name = name,
       .prepare = [&](LayerFile& old) -> Result<std::unique_ptr<LayerFile>> {
         if (fs::exists(kept))
           return fail(ErrorKind::exists, "'{}' exists already", kept.native());
         return write_fresh(top, kept, old.header(), old.header().content + 1);
       },
       .publish = [&](LayerFile& old, LayerFile& fresh) -> Result<> {
         if (auto r = exchange(top, kept); !r) return r;
         old.set_name(kept.native());
         fresh.set_name(top.native());
         return static_cast<FileStore&>(old.store()).share_lock();
       }});
}

}  // namespace tidepool::blockdev::chain
