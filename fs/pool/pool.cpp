#include "fs/pool/pool.h"

#include "base/log.h"
#include "base/size_text.h"
#include "fs/pool/checkpoint_format.h"
#include "fs/pool/pool_impl.h"

namespace tidepool::pool {

// --- PoolImpl: life ---

PoolImpl::PoolImpl(std::shared_ptr<blockdev::BlockStore> the_store, const PoolOptions& the_options,
                   std::unique_ptr<blockdev::SyncChannel> channel, Recovered recovered)
    : store(std::move(the_store)),
      options(the_options),
      state(std::move(recovered.state)),
      channel_(std::move(channel)),
      uuid_(recovered.superblock.uuid),
      superblock_(recovered.superblock),
      recovered_records_(recovered.journal_records) {
  state->set_reuse_before_commit(options.sabotage.reuse_before_commit);
}

PoolImpl::~PoolImpl() {
  if (auto r = stop(); !r)
    log().error("pool '{}' was not closed cleanly: {}", store->name(), r.error().message);
}

void PoolImpl::quarantine_stale_free_space() {
  auto stale = stale_free_runs(*store, state->allocator());
  if (!stale) return log().warn("pool '{}': {}", store->name(), stale.error().message);
  for (const Run& run : *stale) state->quarantine(run);
}

Result<> PoolImpl::start() {
  if (options.read_only) return {};
  bool clean = superblock_.clean;
  {
    std::scoped_lock serial(commit_mutex_);
    auto r = checkpoint_locked(false, [&] {
      if (!clean) quarantine_stale_free_space();
    });
    if (!r) return r;
  }
  if (options.background) thread_ = std::thread([this] { run(); });
  return {};
}

Result<> PoolImpl::stop() {
  if (thread_.joinable()) {
    {
      std::scoped_lock lock(requests_mutex_);
      stopping_ = true;
    }
    wakeup_.notify_one();
    thread_.join();
  }
  if (options.read_only || failed()) return {};
  if (auto r = release_all(); !r) return r;
  std::scoped_lock serial(commit_mutex_);
  return checkpoint_locked(true, [] {});
}

// --- Pool ---

Pool::Pool(std::unique_ptr<PoolImpl> impl) : impl_(std::move(impl)) {}
Pool::~Pool() = default;

Result<> Pool::create(blockdev::BlockStore& store, const CreateOptions& options, bool force) {
  std::uint64_t store_bytes = store.geometry().size;
  auto superblock = lay_out(options.size != 0 ? options.size : store_bytes, options.chunk_bytes);
  if (!superblock) return std::unexpected(superblock.error());
  if (superblock->pool_bytes > store_bytes)
    return fail(ErrorKind::invalid_argument, "'{}' has {}, too little for a pool of {}",
                store.name(), format_size_exactly(store_bytes),
                format_size_exactly(superblock->pool_bytes));
  auto channel = blockdev::SyncChannel::open(store);
  if (!channel) return std::unexpected(channel.error());
  if (!force) {
    std::vector<std::string> findings;
    auto old = read_superblock(**channel, store.name(), store_bytes, findings);
    if (old || old.error().kind != ErrorKind::invalid_argument)
      return fail(ErrorKind::exists, "'{}' holds a pool already: use --force to destroy it",
                  store.name());
  }
  // Whatever was there before must not be taken for this pool's journal or data.
  if (auto r = (*channel)->discard(0, superblock->pool_bytes); !r) return r;
  PoolState state(layout_of(*superblock));
  blockdev::AlignedBuffer page(page_bytes);
  std::uint64_t pages = 0;
  superblock->generation = 1;
  state.snapshot(page_payload_bytes, [&](std::span<const std::byte> records) {
    encode_page(page.span(), superblock->generation, pages++, records);
  });
  superblock->checkpoint_pages = pages;  // one: the root
  superblock->clean = true;
  if (auto r = (*channel)->write(superblock->checkpoints[0].offset, page.span()); !r) return r;
  if (auto r = (*channel)->flush(); !r) return r;
  auto encoded = encode(*superblock);
  blockdev::AlignedBuffer slot(Superblock::slot_stride);
  std::copy(encoded.begin(), encoded.end(), slot.data());
  for (std::uint64_t i : {0, 1})
    if (auto r = (*channel)->write(i * Superblock::slot_stride, slot.span()); !r) return r;
  return (*channel)->flush();
}

Result<std::unique_ptr<Pool>> Pool::open(std::shared_ptr<blockdev::BlockStore> store,
                                         const PoolOptions& options) {
  if (!options.read_only && store->geometry().read_only)
    return fail(ErrorKind::permission, "'{}' is read-only: mount it with -o ro", store->name());
  auto channel = blockdev::SyncChannel::open(*store);
  if (!channel) return std::unexpected(channel.error());
  auto recovered = recover(**channel, store->name(), store->geometry().size, false);
  if (!recovered) return std::unexpected(recovered.error());
  for (const std::string& finding : recovered->findings)
    log().warn("pool '{}': {}", store->name(), finding);
  auto impl = std::make_unique<PoolImpl>(std::move(store), options, std::move(*channel),
                                         std::move(*recovered));
  if (auto r = impl->start(); !r) return std::unexpected(r.error());
  return std::unique_ptr<Pool>(new Pool(std::move(impl)));
}

namespace {

Result<Attributes> describe(const PoolState& state, const Result<Node*>& node) {
  if (!node) return std::unexpected(node.error());
  return state.attributes(**node);
}

std::unexpected<Error> read_only_error(const PoolImpl& impl) {
  return std::unexpected(Error{ErrorKind::permission, EROFS,
                               fmt::format("pool '{}' is open read-only", impl.store->name())});
}

}  // namespace

#define TIDEPOOL_REFUSE_READ_ONLY \
  if (impl_->options.read_only) return read_only_error(*impl_)

Result<Attributes> Pool::lookup(NodeId parent, std::string_view name) const {
  std::scoped_lock lock(impl_->mutex);
  return describe(*impl_->state, impl_->state->lookup(parent, name));
}

Result<Attributes> Pool::attributes(NodeId id) const {
  std::scoped_lock lock(impl_->mutex);
  return describe(*impl_->state, impl_->state->find(id));
}

Result<std::string> Pool::name_of(NodeId id) const {
  std::scoped_lock lock(impl_->mutex);
  auto node = impl_->state->find(id);
  if (!node) return std::unexpected(node.error());
  return (*node)->name;
}

Result<std::vector<DirectoryEntry>> Pool::list(NodeId id) const {
  std::scoped_lock lock(impl_->mutex);
  auto directory = impl_->state->find_directory(id);
  if (!directory) return std::unexpected(directory.error());
  std::vector<DirectoryEntry> entries;
  entries.reserve((*directory)->children.size());
  for (const auto& [name, node] : (*directory)->children)
    entries.push_back({node->id, node->kind, name});
  return entries;
}

Result<Attributes> Pool::make_vm(std::string_view name, std::uint32_t mode, std::uint32_t uid,
                                 std::uint32_t gid) {
  TIDEPOOL_REFUSE_READ_ONLY;
  std::scoped_lock lock(impl_->mutex);
  return describe(*impl_->state, impl_->state->make(root_id, NodeKind::vm, name, mode, uid, gid));
}

Result<Attributes> Pool::make_disk(NodeId vm, std::string_view name, std::uint32_t mode,
                                   std::uint32_t uid, std::uint32_t gid) {
  TIDEPOOL_REFUSE_READ_ONLY;
  std::scoped_lock lock(impl_->mutex);
  return describe(*impl_->state, impl_->state->make(vm, NodeKind::disk, name, mode, uid, gid));
}

Result<> Pool::remove_vm(std::string_view name) {
  TIDEPOOL_REFUSE_READ_ONLY;
  std::scoped_lock lock(impl_->mutex);
  return impl_->state->remove(root_id, name, NodeKind::vm);
}

Result<> Pool::remove_disk(NodeId vm, std::string_view name) {
  TIDEPOOL_REFUSE_READ_ONLY;
  std::scoped_lock lock(impl_->mutex);
  return impl_->state->remove(vm, name, NodeKind::disk);
}

Result<> Pool::rename(NodeId from_parent, std::string_view from_name, NodeId to_parent,
                      std::string_view to_name, bool no_replace) {
  TIDEPOOL_REFUSE_READ_ONLY;
  std::scoped_lock lock(impl_->mutex);
  return impl_->state->rename(from_parent, from_name, to_parent, to_name, no_replace);
}

Result<Attributes> Pool::set_attributes(NodeId id, const AttributeChanges& changes) {
  TIDEPOOL_REFUSE_READ_ONLY;
  std::scoped_lock lock(impl_->mutex);
  auto node = impl_->state->find(id);
  if (!node) return std::unexpected(node.error());
  impl_->state->change(**node, changes);
  return impl_->state->attributes(**node);
}

Result<Disk*> Pool::hold(NodeId disk) {
  std::scoped_lock lock(impl_->mutex);
  return impl_->state->hold(disk);
}

void Pool::release(Disk* disk) {
  std::scoped_lock lock(impl_->mutex);
  impl_->state->release(*disk);
}

Result<> Pool::set_size(Disk& disk, std::uint64_t size) {
  TIDEPOOL_REFUSE_READ_ONLY;
  if (size > PackedExtent::block_limit * block_size)
    return std::unexpected(
        Error{ErrorKind::invalid_argument, EFBIG,
              fmt::format("a disk of {} is too large", format_size_exactly(size))});
  std::scoped_lock lock(impl_->mutex);
  impl_->state->set_size(disk, size);
  return {};
}

Result<SpaceFigures> Pool::space(NodeId id) const {
  std::scoped_lock lock(impl_->mutex);
  auto directory = impl_->state->find_directory(id);
  if (!directory) return std::unexpected(directory.error());
  return impl_->state->space(**directory);
}

Result<VmSettings> Pool::vm_settings(NodeId vm) const {
  std::scoped_lock lock(impl_->mutex);
  auto directory = impl_->state->find_directory(vm);
  if (!directory) return std::unexpected(directory.error());
  return (*directory)->settings;
}

Result<> Pool::set_vm_settings(NodeId vm, const VmSettings& settings) {
  TIDEPOOL_REFUSE_READ_ONLY;
  std::scoped_lock lock(impl_->mutex);
  auto directory = impl_->state->find_directory(vm);
  if (!directory) return std::unexpected(directory.error());
  if ((*directory)->kind != NodeKind::vm)
    return fail(ErrorKind::invalid_argument, "the pool's root has no quota or reserve: name a VM");
  return impl_->state->set_settings(**directory, settings);
}

PoolFigures Pool::figures() const {
  PoolFigures f;
  {
    std::scoped_lock lock(impl_->mutex);
    f = impl_->state->figures();
  }
  f.uuid = to_text(impl_->uuid());
  f.commits = impl_->commits();
  f.checkpoints = impl_->checkpoints();
  f.journal_bytes = impl_->journal_bytes();
  f.recovered_records = impl_->recovered_records();
  return f;
}

Result<> Pool::locate(Disk& disk, std::uint64_t offset, std::uint64_t length,
                      const std::function<bool(const blockdev::Range&)>& sink) const {
  using blockdev::RangeKind;
  // Collected under the lock, told outside: the sink may take its time.
  std::vector<blockdev::Range> ranges;
  std::uint64_t end = offset + length, at = offset;
  {
    std::scoped_lock lock(impl_->mutex);
    disk.map.for_range(
        offset / block_size, (end + block_size - 1) / block_size, [&](const Extent& e) {
          std::uint64_t from = std::max(e.block * block_size, offset);
          std::uint64_t to = std::min(e.end() * block_size, end);
          if (from > at) ranges.push_back({at, from - at, RangeKind::hole, 0});
          ranges.push_back({from, to - from, e.unwritten ? RangeKind::zero : RangeKind::data,
                            e.physical * block_size + (from - e.block * block_size)});
          at = to;
          return true;
        });
  }
  if (at < end) ranges.push_back({at, end - at, RangeKind::hole, 0});
  for (const blockdev::Range& range : ranges)
    if (!sink(range)) break;
  return {};
}

Result<> Pool::commit() { return impl_->commit(); }
void Pool::commit_async(std::function<void(int)> done) { impl_->commit_async(std::move(done)); }
Result<> Pool::release_freed() { return impl_->release_all(); }

Result<> Pool::grow(std::uint64_t size) {
  TIDEPOOL_REFUSE_READ_ONLY;
  if (std::uint64_t store_bytes = impl_->store->geometry().size; store_bytes < size)
    return fail(ErrorKind::invalid_argument, "'{}' has {}, too little to grow the pool to {}",
                impl_->store->name(), format_size_exactly(store_bytes), format_size_exactly(size));
  return impl_->grow(size);
}

#undef TIDEPOOL_REFUSE_READ_ONLY

}  // namespace tidepool::pool
