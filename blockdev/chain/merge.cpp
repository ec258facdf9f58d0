#include "blockdev/chain/merge.h"

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

#include "blockdev/chain/chain_files.h"
#include "blockdev/chain/checkpoint.h"
#include "blockdev/chain/layer_reader.h"
#include "blockdev/chain/store_copy.h"

namespace tidepool::blockdev::chain {

namespace {

namespace fs = std::filesystem;

// Nobody but `child` may stand on the layer or file at `path`.
Result<> refuse_others(FileSystem& files, const fs::path& path, const LayerHeader* header,
                       const Uuid& child, std::string_view what) {
  auto on = layers_on(files, path, header);
  if (!on) return std::unexpected(on.error());
  for (const fs::path& other : *on) {
    const auto found = read_layer_header(files, other);
    if (!found || found->uuid == child) continue;
    return fail(ErrorKind::busy, "{} '{}': '{}' stands on it, too", what, path.native(),
                other.native());
  }
  return {};
}

// Another merge, that was begun and not finished, comes first.
Result<> refuse_unfinished(const LayerFile& layer, MergeState allowed, const Uuid& with) {
  const LayerHeader header = layer.header_now();
  const bool takes =
      header.merge == MergeState::takes_parent || header.merge == MergeState::takes_child;
  if (!takes || (header.merge == allowed && header.merge_with == with)) return {};
  return fail(ErrorKind::busy, "layer '{}': a {} was not finished: give that command again first",
              layer.name(),
              header.merge == MergeState::takes_child ? "commit into it"
                                                      : "deletion of the checkpoint below it");
}

Result<> begin(FileSystem& files, Chain& chain, LayerFile& layer, MergeState state,
               const Uuid& with) {
  auto writable = files.open_for_change(layer.locked_store());
  if (!writable) return std::unexpected(writable.error());
  return layer.begin_merge(chain.lock(), std::move(*writable), state, with);
}

// The file of a layer that has left the chain. This process may keep it open for
// long, so it gives its space back at once, unless others read it still.
Result<> remove_layer(FileSystem& files, LayerFile& layer) {
  const fs::path path = layer.name();
  if (auto r = files.remove(path); !r) return r;
  if (auto r = files.sync_directory(path); !r) return r;
  if (auto alone = files.open_for_change(layer.locked_store()); alone)
    return files.set_size(**alone, 0);
  return {};
}

Result<> keep_copy(FileSystem& files, BlockStore& parent, const fs::path& copy,
                   Progress& progress) {
  const fs::path partial = copy.native() + ".part";
  if (files.exists(copy)) return fail(ErrorKind::exists, "'{}' exists already", copy.native());
  if (auto r = files.remove(partial); !r) return r;
  auto target = files.create(partial, parent.geometry().size);
  if (!target) return std::unexpected(target.error());
  auto done = copy_store(parent, **target, progress);
  if (done) done = files.rename(partial, copy);
  if (done) done = files.sync_directory(copy);
  if (!done) (void)files.remove(partial);
  return done;
}

// --- commit ---

class Commit {
 public:
  Commit(FileSystem& files, Chain& chain, const fs::path& top, Progress& progress)
      : files_(files), chain_(chain), top_(top), progress_(progress) {}

  // `copy`: where the parent is kept before; may be empty.
  Result<> run(const fs::path& copy) {
    const bool resumed = going_down() != nullptr;
    if (!resumed) {
      if (auto r = remove_leftover(); !r) return r;
    }
    if (auto r = check(resumed); !r) return r;
    if (!copy.empty()) {
      const auto order = chain_.order();
      BlockStore& parent = parent_number_ < 0 ? *chain_.base()
                                              : chain_.layer(order[parent_number_]).store();
      if (auto r = keep_copy(files_, parent, copy, progress_); !r) return r;
    }
    if (!resumed) {
      auto r = take_checkpoint(files_, chain_, top_, "", going_down_path(),
                               MergeState::goes_down);
      if (!r) return std::unexpected(r.error());
    }
    const auto order = chain_.order();
    child_number_ = order[order.size() - 2];
    LayerFile& child = chain_.layer(child_number_);
    auto parent = parent_number_ < 0 ? into_base(child)
                                     : into_layer(child, order[parent_number_]);
    if (!parent) return std::unexpected(parent.error());
    if (auto r = chain_.top().set_parent(*parent); !r) return r;
    chain_.retire(child_number_);
    return remove_layer(files_, child);
  }

  LayerFile* going_down() {
    const auto order = chain_.order();
    if (order.size() < 2) return nullptr;
    LayerFile& below = chain_.layer(order[order.size() - 2]);
    return below.header_now().merge == MergeState::goes_down ? &below : nullptr;
  }

 private:
  fs::path going_down_path() const { return top_.native() + ".commit"; }

  // A crash after the last step but one leaves the file of a layer that was taken.
  Result<> remove_leftover() {
    const auto header = read_layer_header(files_, going_down_path());
    if (!header || header->merge != MergeState::goes_down) return {};
    if (auto r = refuse_others(files_, going_down_path(), &*header, {}, "cannot remove"); !r)
      return r;
    return files_.remove(going_down_path());
  }

  // Also finds the parent: its place in the order, -1 for the base.
  Result<> check(bool resumed) {
    const auto order = chain_.order();
    parent_number_ = static_cast<std::ptrdiff_t>(order.size()) - (resumed ? 3 : 2);
    LayerFile& child = chain_.layer(order[parent_number_ + 1]);
    const LayerHeader header = child.header_now();
    if (header.parent.kind == ParentKind::none) {
      return fail(ErrorKind::invalid_argument, "'{}' stands on nothing: there is no parent to commit into",
                  child.name());
    }
    if (parent_number_ < 0 && header.parent.kind != ParentKind::file) {
      return fail(ErrorKind::unsupported, "cannot commit into '{}': only into a layer, file or device",
                  header.parent.location);
    }
    const char* const what = "cannot commit into";
    if (parent_number_ < 0)
      return refuse_others(files_, chain_.base()->name(), nullptr, header.uuid, what);
    LayerFile& parent = chain_.layer(order[parent_number_]);
    if (auto r = refuse_unfinished(parent, MergeState::takes_child, header.uuid); !r) return r;
    const LayerHeader parent_header = parent.header_now();
    return refuse_others(files_, parent.name(), &parent_header, header.uuid, what);
  }

  Result<ParentReference> into_layer(LayerFile& child, std::uint32_t parent_number) {
    LayerFile& parent = chain_.layer(parent_number);
    const Uuid uuid = child.header_now().uuid;
    const auto reference = [&] {
      const LayerHeader header = parent.header_now();
      return ParentReference{.kind = ParentKind::layer,
                             .location = location_of(parent.name(), top_),
                             .uuid = header.uuid,
                             .content = header.content,
                             .size = header.size};
    };
    const LayerHeader before = parent.header_now();
    const bool done = before.merge == MergeState::took_child && before.merge_with == uuid;
    const bool again = before.merge == MergeState::takes_child;
    if (!done) {
      auto begun = begin(files_, chain_, parent, MergeState::takes_child, uuid);
      if (!begun) return std::unexpected(begun.error());
    }
    auto mover = BlockMover::open(chain_, child_number_, parent_number, progress_);
    if (!mover) return std::unexpected(mover.error());
    if (done) {
      (*mover)->relink();
      return reference();
    }
    auto moved = (*mover)->down(again);
    if (moved) {
      moved = parent.finish_merge(chain_.lock(), [&](LayerHeader& next) {
        next.merge = MergeState::took_child;
        ++next.content;
      });
    }
    if (moved) moved = files_.share(parent.locked_store());
    if (!moved) return std::unexpected(moved.error());
    return reference();
  }

  Result<ParentReference> into_base(LayerFile& child) {
    auto writable = files_.open_for_change(*chain_.locked_base());
    if (!writable) return std::unexpected(writable.error());
    BlockStore& base = **writable;
    const std::uint64_t size = chain_.geometry().size;
    if (base.geometry().size < size) {
      if (auto r = files_.set_size(base, size); !r) return std::unexpected(r.error());
    }
    auto moved = copy_down(child, base);
    if (moved) moved = files_.share(base);
    if (!moved) return std::unexpected(moved.error());
    const std::string path = base.name();
    auto changed = files_.change_time(path);
    if (!changed) return std::unexpected(changed.error());
    ParentReference reference{.kind = ParentKind::file,
                              .location = location_of(path, top_),
                              .size = base.geometry().size,
                              .changed_ns = *changed};
    chain_.base_changed(base.geometry().size, std::move(*writable));
    forget(child);
    return reference;
  }

  Result<> copy_down(LayerFile& child, BlockStore& base) {
    auto source = LayerReader::open(chain_, child);
    if (!source) return std::unexpected(source.error());
    auto target = SyncChannel::open(base);
    if (!target) return std::unexpected(target.error());
    {
      const std::lock_guard lock(chain_.lock());
      progress_.total.store(child.map().slots_used() * block_bytes);
    }
    progress_.done.store(0);
    const std::uint64_t size = chain_.geometry().size;
    auto copied = (*source)->for_pieces([&](const LayerReader::Piece& piece) -> Result<> {
      const std::uint64_t offset = piece.block * block_bytes;
      const std::uint64_t length = std::min(piece.count * block_bytes, size - offset);
      if (auto r = progress_.go_on(); !r) return r;
      if (piece.zero) return (*target)->discard(offset, length);
      if (auto r = (*source)->read(piece); !r) return r;
      progress_.done.fetch_add(length);
      return (*target)->write(offset, (*source)->data().first(length));
    });
    if (copied) copied = (*target)->flush();
    return copied;
  }

  // Where the index leads to `child`, it leads to the base now.
  void forget(LayerFile& child) {
    const std::lock_guard lock(chain_.lock());
    std::vector<ChainPiece> pieces;
    child.map().extents().for_range(0, child.header().blocks(), [&](const Extent& e) {
      chain_.index().for_range(e.block, e.end(), [&](const ChainPiece& piece) {
        if (piece.kind == ChainPiece::Kind::data && &chain_.layer(piece.layer) == &child)
          pieces.push_back(piece);
        return true;
      });
      return true;
    });
    for (const ChainPiece& piece : pieces) chain_.index().forget(piece.block, piece.count);
  }

  FileSystem& files_;
  Chain& chain_;
  const fs::path top_;
  Progress& progress_;
  std::ptrdiff_t parent_number_ = -1;
  std::uint32_t child_number_ = 0;
};

}  // namespace

Result<> commit_top(FileSystem& files, Chain& chain, const fs::path& top, const fs::path& copy,
                    Progress& progress) {
  auto alone = chain.administer();
  if (!alone) return std::unexpected(alone.error());
  Commit commit(files, chain, top, progress);
  const bool resumed = commit.going_down() != nullptr;
  if (auto r = commit.run(copy); !r || !resumed) return r;
  // The one that was begun is finished; now what was written since.
  return Commit(files, chain, top, progress).run({});
}

// --- delete ---

namespace {

bool is_called(const fs::path& path, const LayerHeader& header, const std::string& name) {
  return header.name == name || path.filename() == name;
}

// A checkpoint beside the chain that nobody stands on: what a deletion leaves that a
// crash cut short at its last step. False: there is none of this name.
Result<bool> delete_leaf(FileSystem& files, Chain& chain, const std::string& name) {
  for (const std::uint32_t number : chain.order()) {
    const LayerHeader below = chain.layer(number).header_now();
    auto on = layers_on(files, chain.layer(number).name(), &below);
    if (!on) return std::unexpected(on.error());
    for (const fs::path& path : *on) {
      const auto header = read_layer_header(files, path);
      if (!header || header->state != LayerState::sealed || !is_called(path, *header, name))
        continue;
      if (auto r = refuse_others(files, path, &*header, {}, "cannot delete"); !r)
        return std::unexpected(r.error());
      auto unused = files.open(path, false);
      if (!unused) return std::unexpected(unused.error());
      if (auto r = files.remove(path); !r) return std::unexpected(r.error());
      if (auto r = files.sync_directory(path); !r) return std::unexpected(r.error());
      return true;
    }
  }
  return false;
}

}  // namespace

Result<> delete_checkpoint(FileSystem& files, Chain& chain, const std::string& name,
                           Progress& progress) {
  auto alone = chain.administer();
  if (!alone) return std::unexpected(alone.error());
  const auto order = chain.order();
  std::size_t place = order.size();
  for (std::size_t i = 0; i < order.size(); ++i) {
    const LayerFile& layer = chain.layer(order[i]);
    if (is_called(layer.name(), layer.header_now(), name)) place = i;
  }
  if (place == order.size()) {
    const auto deleted = delete_leaf(files, chain, name);
    if (!deleted) return std::unexpected(deleted.error());
    if (*deleted) return {};
    return fail(ErrorKind::not_found, "chain '{}' has no checkpoint '{}'", chain.name(), name);
  }
  if (place + 1 == order.size()) {
    return fail(ErrorKind::invalid_argument, "'{}' is the top of the chain, not a checkpoint below it",
                chain.layer(order[place]).name());
  }
  LayerFile& gone = chain.layer(order[place]);
  LayerFile& child = chain.layer(order[place + 1]);
  const LayerHeader header = gone.header_now(), child_header = child.header_now();
  if (header.merge == MergeState::goes_down || child_header.merge == MergeState::goes_down) {
    return fail(ErrorKind::busy, "chain '{}': a commit was not finished: give that command again first",
                chain.name());
  }
  if (auto r = refuse_unfinished(gone, MergeState::none, {}); !r) return r;
  if (auto r = refuse_unfinished(child, MergeState::takes_parent, header.uuid); !r) return r;
  if (auto r = refuse_others(files, gone.name(), &header, child_header.uuid, "cannot delete"); !r)
    return r;
  ParentReference parent = header.parent;
  if (parent.kind == ParentKind::layer || parent.kind == ParentKind::file)
    parent.location = location_of(parent_path(gone.name(), parent), child.name());
  const bool active = child_header.state == LayerState::active;
  if (!active) {
    if (auto r = begin(files, chain, child, MergeState::takes_parent, header.uuid); !r) return r;
  }
  auto mover = BlockMover::open(chain, order[place], order[place + 1], progress);
  if (!mover) return std::unexpected(mover.error());
  if (auto r = (*mover)->up(); !r) return r;
  auto done = active ? child.set_parent(parent)
                     : child.finish_merge(chain.lock(), [&](LayerHeader& next) {
                         next.merge = MergeState::none;
                         next.merge_with = {};
                         next.parent = parent;
                       });
  if (done && !active) done = files.share(child.locked_store());
  if (!done) return done;
  chain.retire(order[place]);
  return remove_layer(files, gone);
}

}  // namespace tidepool::blockdev::chain
