#include "blockdev/chain/layer_file.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/size_text.h"
#include "blockdev/journal_format.h"

namespace tidepool::blockdev::chain {

namespace {

constexpr std::uint64_t piece_bytes = std::uint64_t{1} << 20;      // read or written at once
constexpr std::uint64_t extents_at_once = std::uint64_t{1} << 14;  // copied under the lock
constexpr std::uint64_t sectors_at_once = std::uint64_t{1} << 11;

}  // namespace

LayerFile::LayerFile(std::shared_ptr<BlockStore> store, LayerHeader header)
    : store_(std::move(store)),
      name_(store_->name()),
      header_(std::move(header)),
      data_begin_(header_.data().offset),
      next_batch_(header_.first_batch),
      map_(header_.slots) {}

std::string LayerFile::name() const {
  const std::lock_guard lock(name_mutex_);
  return name_;
}

void LayerFile::set_name(std::string name) {
  const std::lock_guard lock(name_mutex_);
  name_ = std::move(name);
}

Error LayerFile::named(Error error) const {
  error.message = fmt::format("layer '{}': {}", name(), error.message);
  return error;
}

Result<> LayerFile::connect(BlockStore& store) {
  if (channel_) return {};
  auto channel = SyncChannel::open(store);
  if (!channel) return std::unexpected(channel.error());
  channel_ = std::move(*channel);
  return {};
}

Result<> LayerFile::barrier() { return channel_->flush(); }

// --- creating and opening ---

Result<LayerHeader> read_header(std::span<const std::byte> slots, const std::string& name) {
  LayerHeader header;
  bool found = false, newer = false, corrupt = false;
  for (std::size_t i = 0; i < 2; ++i) {
    LayerHeader candidate;
    switch (decode(slots.subspan(i * LayerHeader::encoded_size), candidate)) {
      case HeaderState::valid:
        if (!found || candidate.generation > header.generation) header = std::move(candidate);
        found = true;
        break;
      case HeaderState::newer:
        newer = true;
        break;
      case HeaderState::corrupt:
        corrupt = true;
        break;
      case HeaderState::absent:
        break;
    }
  }
  if (newer) {
    return fail(ErrorKind::unsupported,
                "layer '{}' was made by a later version: this one reads version {}", name,
                LayerHeader::version);
  }
  if (!found && corrupt)
    return fail(ErrorKind::corrupt, "layer '{}': both copies of the header are damaged", name);
  if (!found) return fail(ErrorKind::invalid_argument, "'{}' is not a layer", name);
  return header;
}

Result<std::unique_ptr<LayerFile>> LayerFile::create(std::shared_ptr<BlockStore> store,
                                                     LayerHeader header) {
  std::unique_ptr<LayerFile> layer(new LayerFile(std::move(store), std::move(header)));
  if (auto r = layer->connect(*layer->store_); !r) return std::unexpected(r.error());
  if (auto r = layer->write_header(layer->header_); !r) return std::unexpected(r.error());
  return layer;
}

Result<std::unique_ptr<LayerFile>> LayerFile::open(std::shared_ptr<BlockStore> store,
                                                   EventLoop* loop) {
  auto channel = loop ? SyncChannel::open(*store, *loop) : SyncChannel::open(*store);
  if (!channel) return std::unexpected(channel.error());
  const std::string& name = store->name();
  const std::uint64_t size = store->geometry().size;
  if (size < 2 * LayerHeader::encoded_size)
    return fail(ErrorKind::invalid_argument, "'{}' is not a layer: too small", name);
  AlignedBuffer slots(2 * LayerHeader::encoded_size);
  if (auto r = (*channel)->read(0, slots.span()); !r) return std::unexpected(r.error());
  auto decoded = read_header(slots.span(), name);
  if (!decoded) return std::unexpected(decoded.error());
  LayerHeader header = std::move(*decoded);
  if (size < header.file_bytes()) {
    return fail(ErrorKind::corrupt, "layer '{}' was cut off: {} of {} are there", name,
                format_size(size), format_size(header.file_bytes()));
  }
  std::unique_ptr<LayerFile> layer(new LayerFile(std::move(store), std::move(header)));
  layer->channel_ = std::move(*channel);
  auto read = layer->read_index();
  if (read && layer->header_.journal_lives()) read = layer->replay_journal();
  if (!read) return std::unexpected(layer->named(read.error()));
  if (loop || !layer->header_.journal_lives()) layer->disconnect();
  if (layer->header_.journal_lives()) {
    if (auto r = layer->connect(*layer->store_); !r) return std::unexpected(r.error());
  }
  return layer;
}

Result<> LayerFile::read_index() {
  const Area area = header_.index(header_.active_index);
  const std::uint64_t bytes = header_.index_pages * index_page_bytes;
  AlignedBuffer buffer(std::min(bytes, piece_bytes));
  std::vector<Extent> extents;
  std::uint64_t previous_end = 0, high_water = 0;
  for (std::uint64_t at = 0; at < bytes; at += buffer.size()) {
    auto data = buffer.span().first(std::min<std::uint64_t>(buffer.size(), bytes - at));
    if (auto r = channel_->read(area.offset + at, data); !r) return r;
    extents.clear();
    for (std::size_t page = 0; page < data.size(); page += index_page_bytes) {
      auto r = decode_index_page(data.subspan(page), header_, (at + page) / index_page_bytes,
                                 previous_end, extents);
      if (!r) return r;
    }
    for (const Extent& extent : extents) {
      map_.load(extent);
      if (!extent.unwritten)
        high_water = std::max<std::uint64_t>(high_water, extent.physical + extent.count);
    }
  }
  if (!header_.journal_lives()) {
    map_.loaded_to_read();
    return {};
  }
  // What is rewritten in place later must be known in full.
  auto sectors = read_hashes(0, (high_water + hashes_per_sector - 1) / hashes_per_sector);
  if (!sectors) return std::unexpected(sectors.error());
  install(*sectors);
  return {};
}

Result<std::vector<LayerFile::NumberedSector>> LayerFile::read_hashes(std::uint64_t first,
                                                                      std::uint64_t end) {
  const Area area = header_.hashes();
  constexpr std::uint64_t page = 4096 / hash_sector_bytes;  // sectors
  first = first / page * page;
  const std::uint64_t stop = std::min((end + page - 1) / page * page, area.length / hash_sector_bytes);
  std::vector<NumberedSector> sectors;
  if (first >= stop) return sectors;
  sectors.resize(std::min(end, stop) - first);
  AlignedBuffer buffer(std::min((stop - first) * hash_sector_bytes, piece_bytes));
  for (std::uint64_t at = first; at < stop;) {
    const std::uint64_t count =
        std::min<std::uint64_t>(buffer.size() / hash_sector_bytes, stop - at);
    auto data = buffer.span().first(count * hash_sector_bytes);
    if (auto r = channel_->read(area.offset + at * hash_sector_bytes, data); !r)
      return std::unexpected(r.error());
    for (std::uint64_t i = 0; i < count && at + i < end; ++i) {
      NumberedSector& sector = sectors[at + i - first];
      sector.number = at + i;
      auto r = decode_hash_sector(data.subspan(i * hash_sector_bytes, hash_sector_bytes),
                                  header_.salt(), at + i, sector.hashes);
      if (!r) return std::unexpected(r.error());
    }
    at += count;
  }
  return sectors;
}

void LayerFile::install(const std::vector<NumberedSector>& sectors) {
  for (const NumberedSector& sector : sectors) map_.hashes().load(sector.number, sector.hashes);
}

Result<> LayerFile::replay_journal() {
  const Area area = header_.journal();
  AlignedBuffer journal(area.length);
  std::uint64_t written = 0;  // bytes; behind them is a hole
  Result<> read;
  auto located = store_->locate(area.offset, area.length, [&](const Range& range) {
    if (range.kind != RangeKind::data) return true;
    const std::uint64_t at = range.offset - area.offset;
    written = at + range.length;
    read = channel_->read(range.offset, journal.span().subspan(at, range.length));
    return read.has_value();
  });
  if (located) located = read;
  if (!located) return located;
  std::vector<std::byte> records;
  for (;;) {
    const auto rest = std::span<const std::byte>(journal.span()).subspan(journal_at_);
    auto size = rest.empty() ? 0 : decode_batch(rest, header_.salt(), next_batch_, records);
    if (!size) return std::unexpected(size.error());
    if (*size == 0) {
      const auto unread = rest.first(written - std::min(written, journal_at_));
      if (holds_later_batch(unread, header_.salt(), next_batch_)) {
        return fail(ErrorKind::corrupt, "journal: batch {} at byte {} is missing, later ones are there",
                    next_batch_, journal_at_);
      }
      break;
    }
    auto r = decode_records(records, header_,
                            [&](const LayerRecord& record) { map_.replay(record); });
    if (!r) return r;
    journal_at_ += *size;
    ++next_batch_;
  }
  if (header_.closed_batch != 0 && next_batch_ != header_.closed_batch) {
    return fail(ErrorKind::corrupt, "journal: it ends before batch {}, but was closed before batch {}",
                next_batch_, header_.closed_batch);
  }
  map_.loaded();
  return {};
}

// --- changing ---

Result<> LayerFile::write_header(LayerHeader next) {
  ++next.generation;
  const auto encoded = encode(next);
  AlignedBuffer slot(encoded.size());
  std::copy(encoded.begin(), encoded.end(), slot.data());
  for (std::uint64_t i = 0; i < 2; ++i) {
    if (auto r = channel_->write(i * LayerHeader::encoded_size, slot.span()); !r) return r;
    if (auto r = barrier(); !r) return r;
  }
  header_ = std::move(next);
  return {};
}

Result<> LayerFile::append_batch(std::span<const std::byte> records) {
  AlignedBuffer batch(batch_bytes(records.size()));
  encode_batch(batch.span(), header_.salt(), next_batch_, records);
  if (auto r = channel_->write(header_.journal().offset + journal_at_, batch.span()); !r) return r;
  if (!sabotage.skip_journal_barrier) {
    if (auto r = barrier(); !r) return r;
  }
  journal_at_ += batch.size();
  ++next_batch_;
  return {};
}

Result<> LayerFile::settle(Result<> done) {
  if (done) return done;
  failed_ = named(done.error());
  return std::unexpected(*failed_);
}

Result<> LayerFile::commit(std::mutex& chain_lock) {
  const std::lock_guard io(io_mutex_);
  if (failed_) return std::unexpected(*failed_);
  return settle(commit_locked(chain_lock));
}

Result<> LayerFile::close(std::mutex& chain_lock) {
  const std::lock_guard io(io_mutex_);
  if (failed_) return std::unexpected(*failed_);
  return settle(close_locked(chain_lock));
}

Result<> LayerFile::seal(std::mutex& chain_lock, const std::string& name, MergeState merge) {
  const std::lock_guard io(io_mutex_);
  if (failed_) return std::unexpected(*failed_);
  LayerHeader next = header_;
  next.state = LayerState::sealed;
  next.merge = merge;
  ++next.content;
  next.name = name;
  return settle(write_sealed(chain_lock, std::move(next)));
}

Result<bool> LayerFile::punch(std::mutex& chain_lock) {
  const std::lock_guard io(io_mutex_);
  SlotRun run;
  {
    const std::lock_guard lock(chain_lock);
    if (failed_ || !channel_ || !map_.take_to_punch(run)) return false;
  }
  Result<> done;
  if ((writable_ ? writable_ : store_)->geometry().can_discard)
    done = channel_->discard(data_offset(run.slot), run.count * block_bytes);
  const std::lock_guard lock(chain_lock);
  map_.punched(run);
  if (!done) return std::unexpected(done.error());
  return true;
}

// --- merging ---

Result<> LayerFile::begin_merge(std::mutex& chain_lock, std::shared_ptr<BlockStore> writable,
                                MergeState state, const Uuid& with) {
  const std::lock_guard io(io_mutex_);
  disconnect();
  if (auto r = connect(*writable); !r) return r;
  writable_ = std::move(writable);
  if (failed_) return std::unexpected(*failed_);
  if (header_.merge == state && header_.merge_with == with) return {};
  std::uint64_t high_water = 0;
  {
    const std::lock_guard lock(chain_lock);
    high_water = map_.high_water();
  }
  auto sectors = read_hashes(0, (high_water + hashes_per_sector - 1) / hashes_per_sector);
  if (!sectors) return std::unexpected(named(sectors.error()));
  {
    const std::lock_guard lock(chain_lock);
    install(*sectors);
    map_.loaded();  // until now nobody asked which slots are free
  }
  LayerHeader next = header_;
  next.merge = state;
  next.merge_with = with;
  journal_at_ = 0;
  return settle(write_header(std::move(next)));
}

Result<> LayerFile::finish_merge(std::mutex& chain_lock,
                                 const std::function<void(LayerHeader&)>& edit) {
  const std::lock_guard io(io_mutex_);
  if (failed_) return std::unexpected(*failed_);
  LayerHeader next = header_;
  edit(next);
  return settle(write_sealed(chain_lock, std::move(next)));
}

Result<> LayerFile::set_parent(const ParentReference& parent) {
  const std::lock_guard io(io_mutex_);
  if (failed_) return std::unexpected(*failed_);
  LayerHeader next = header_;
  next.parent = parent;
  return settle(write_header(std::move(next)));
}

Result<> LayerFile::close_locked(std::mutex& chain_lock) {
  if (header_.state == LayerState::sealed) return {};
  if (auto r = commit_locked(chain_lock); !r) return r;
  if (header_.closed_batch == next_batch_) return {};
  LayerHeader next = header_;
  next.closed_batch = next_batch_;
  return write_header(std::move(next));
}

Result<> LayerFile::commit_locked(std::mutex& chain_lock) {
  std::vector<std::byte> records;
  {
    const std::lock_guard lock(chain_lock);
    records = map_.begin_commit();
  }
  Result<> done;
  if (records.empty()) {
    // Nothing new is mapped; what was is stable since the last commit.
  } else if (batch_bytes(records.size()) <= header_.journal_bytes - journal_at_) {
    if (header_.closed_batch != 0) {
      LayerHeader next = header_;
      next.closed_batch = 0;
      done = write_header(std::move(next));
    }
    if (done && !sabotage.skip_data_barrier) done = barrier();
    if (done) done = append_batch(records);
  } else {
    LayerHeader next = header_;
    next.first_batch = next_batch_;
    next.closed_batch = 0;
    done = write_map(chain_lock, next);
    if (done) done = write_header(std::move(next));
    journal_at_ = 0;
  }
  if (done) release_slots(chain_lock);
  return done;
}

// Those that the last commit made free.
void LayerFile::release_slots(std::mutex& chain_lock) {
  for (bool all = false; !all;) {
    const std::lock_guard lock(chain_lock);
    all = map_.committed();
  }
}

// The map and the hashes as they are now, to the index that is not active. What
// changes meanwhile may be in it or not: the next batch holds it again.
Result<> LayerFile::write_map(std::mutex& chain_lock, LayerHeader& next) {
  std::vector<PackedExtent> extents;
  for (std::uint64_t at = 0; at < header_.blocks();) {
    const std::lock_guard lock(chain_lock);
    const std::size_t before = extents.size();
    std::uint64_t end = header_.blocks();
    map_.extents().for_range(at, end, [&](const Extent& e) {
      extents.push_back(PackedExtent::pack(e));
      if (extents.size() - before < extents_at_once) return true;
      end = e.end();
      return false;
    });
    at = end;
  }
  std::vector<NumberedSector> sectors;
  for (std::uint64_t at = 0, end = 0; at == 0 || at < end;) {
    const std::lock_guard lock(chain_lock);
    at = map_.hashes().take_changed(at, sectors_at_once,
                                    [&](std::uint64_t number, const HashSector& hashes) {
                                      sectors.push_back({number, hashes});
                                    });
    end = map_.hashes().sectors();
    if (end == 0) break;
  }
  // Everything copied was mapped after its data had been written: now it is stable.
  if (auto r = barrier(); !r) return r;

  next.active_index = header_.active_index ^ 1;
  next.index_pages = (extents.size() + extents_per_page - 1) / extents_per_page;
  AlignedBuffer buffer(piece_bytes);
  const std::uint64_t pages_at_once = buffer.size() / index_page_bytes;
  for (std::uint64_t at = 0; at < next.index_pages; at += pages_at_once) {
    const std::uint64_t n = std::min(pages_at_once, next.index_pages - at);
    for (std::uint64_t i = 0; i < n; ++i) {
      const auto rest = std::span<const PackedExtent>(extents).subspan((at + i) * extents_per_page);
      encode_index_page(buffer.span().subspan(i * index_page_bytes, index_page_bytes),
                        header_.salt(), next.first_batch, at + i,
                        rest.first(std::min(rest.size(), extents_per_page)));
    }
    auto r = channel_->write(header_.index(next.active_index).offset + at * index_page_bytes,
                             buffer.span().first(n * index_page_bytes));
    if (!r) return r;
  }
  for (std::size_t at = 0; at < sectors.size();) {
    const std::uint64_t first = sectors[at].number;
    std::uint64_t n = 0;  // one behind the other
    for (; at < sectors.size() && sectors[at].number == first + n &&
           (n + 1) * hash_sector_bytes <= buffer.size();
         ++at, ++n) {
      encode_hash_sector(buffer.span().subspan(n * hash_sector_bytes, hash_sector_bytes),
                         header_.salt(), first + n, sectors[at].hashes);
    }
    auto r = channel_->write(header_.hashes().offset + first * hash_sector_bytes,
                             buffer.span().first(n * hash_sector_bytes));
    if (!r) return r;
  }
  return barrier();
}

// The whole map, then a header with which the journal is not needed any more.
Result<> LayerFile::write_sealed(std::mutex& chain_lock, LayerHeader next) {
  {
    const std::lock_guard lock(chain_lock);
    map_.begin_commit();
  }
  next.first_batch = next_batch_;
  next.closed_batch = 0;
  auto done = write_map(chain_lock, next);
  if (done) done = write_header(std::move(next));
  if (!done) return done;
  disconnect();
  release_slots(chain_lock);
  return {};
}

Result<> LayerFile::load_hashes(std::mutex& chain_lock, std::uint64_t slot, std::uint64_t count) {
  const std::lock_guard io(io_mutex_);
  const bool connected = channel_ != nullptr;
  if (auto r = connect(*store_); !r) return r;
  auto sectors = read_hashes(slot / hashes_per_sector,
                             (slot + count + hashes_per_sector - 1) / hashes_per_sector);
  if (!connected) disconnect();
  if (!sectors) return std::unexpected(named(sectors.error()));
  const std::lock_guard lock(chain_lock);
  install(*sectors);
  return {};
}

}  // namespace tidepool::blockdev::chain
