#include "fs/pool/recovery.h"

#include <algorithm>
#include <cstring>

#include "base/size_text.h"
#include "blockdev/journal_format.h"
#include "fs/pool/checkpoint_format.h"

namespace tidepool::pool {

using namespace blockdev;

namespace {

constexpr const char* repair_hint = "run 'elasticctl check --repair' on it";

// Passes records on; with `tolerant`, an error becomes a finding and a loss.
//
// A record then fails for lack of a node that was lost. What is left must stay a part
// of what was there: nothing that the record takes away may be kept.
class ReplaySink : public RecordSink {
 public:
  ReplaySink(Recovered& recovered, bool tolerant) : r_(recovered), tolerant_(tolerant) {}

  Result<> node(const NodeRecord& n) override {
    auto result = r_.state->node(n);
    // It moved into a VM that is lost: the one it came from must not see it.
    if (!result && tolerant_) static_cast<void>(r_.state->remove(n.id));
    return pass(result);
  }
  Result<> remove(NodeId id) override { return pass(r_.state->remove(id)); }
  Result<> map(NodeId disk, const Extent& e) override { return pass(r_.state->map(disk, e)); }
  Result<> unmap(NodeId disk, std::uint64_t block, std::uint64_t count) override {
    return pass(r_.state->unmap(disk, block, count));
  }

 private:
  Result<> pass(Result<> result) {
    if (result || !tolerant_) return result;
    r_.findings.push_back(result.error().message);
    r_.losses.push_back("a record: " + result.error().message);
    return {};
  }
  Recovered& r_;
  bool tolerant_;
};

std::uint64_t salt_of(const Superblock& s) {
  std::uint64_t salt = 0;
  std::memcpy(&salt, s.uuid.data(), sizeof salt);
  return salt;
}

// In strict mode the error; in tolerant mode a finding and what it costs.
Result<> damage(Recovered& r, bool tolerant, const std::string& name, const Error& error,
                std::string loss) {
  if (!tolerant)
    return fail(error.kind, "pool '{}': {}: {}", name, error.message,
                error.kind == ErrorKind::corrupt ? repair_hint : "check the device");
  r.findings.push_back(error.message);
  r.losses.push_back(std::move(loss));
  return {};
}

Result<> load_checkpoint(blockdev::SyncChannel& channel, const std::string& name, Recovered& r,
                         bool tolerant) {
  constexpr std::uint64_t pages_at_once = 16;
  const Superblock& s = r.superblock;
  const Area& area = s.checkpoints[s.active_checkpoint];
  blockdev::AlignedBuffer buffer(pages_at_once * page_bytes);
  ReplaySink sink(r, tolerant);
  for (std::uint64_t page = 0; page < s.checkpoint_pages; page += pages_at_once) {
    std::uint64_t count = std::min(pages_at_once, s.checkpoint_pages - page);
    auto bytes = buffer.span().first(count * page_bytes);
    if (auto read = channel.read(area.offset + page * page_bytes, bytes); !read) return read;
    for (std::uint64_t i = 0; i < count; ++i) {
      auto records = decode_page(bytes.subspan(i * page_bytes, page_bytes), s.generation, page + i);
      auto replayed = records ? decode_records(*records, sink)
                              : Result<std::uint64_t>(std::unexpected(records.error()));
      if (replayed) continue;
      auto loss = fmt::format(
          "the names or mappings in checkpoint page {}: their disks are "
          "missing, or read zeros in places",
          page + i);
      if (auto d = damage(r, tolerant, name, replayed.error(), loss); !d) return d;
    }
  }
  return {};
}

Result<> replay_journal(blockdev::SyncChannel& channel, const std::string& name, Recovered& r,
                        bool tolerant, const Sabotage& sabotage) {
  const Superblock& s = r.superblock;
  blockdev::AlignedBuffer journal(s.journal.length);
  // Read as far as batches go on, a piece at a time: most journals are short.
  constexpr std::uint64_t piece = 1024 * 1024;
  std::uint64_t loaded = 0;
  auto load_to = [&](std::uint64_t end) -> Result<> {
    end = std::min((end + piece - 1) / piece * piece, s.journal.length);
    if (end <= loaded) return {};
    auto read =
        channel.read(s.journal.offset + loaded, journal.span().subspan(loaded, end - loaded));
    loaded = end;
    return read;
  };
  ReplaySink sink(r, tolerant && !r.losses.empty());  // what else could a record fail for
  std::vector<std::byte> records;
  std::uint64_t offset = 0, batch = first_batch(s.generation);
  while (offset < s.journal.length) {
    if (auto read = load_to(offset + journal_unit_bytes); !read) return read;
    auto size =
        decode_batch(journal.span().subspan(offset, loaded - offset), salt_of(s), batch, records);
    // A batch that runs past what is loaded looks torn or misplaced: load all, look again.
    if ((!size || *size == 0) && loaded < s.journal.length) {
      if (auto read = load_to(s.journal.length); !read) return read;
      size = decode_batch(journal.span().subspan(offset), salt_of(s), batch, records);
    }
    if (size && *size == 0) {
      if (!holds_later_batch(journal.span().subspan(offset), salt_of(s), batch)) break;
      size = fail(ErrorKind::corrupt, "journal batch {} is missing, though a later one is there",
                  batch);
    }
    auto replayed =
        size ? decode_records(records, sink) : Result<std::uint64_t>(std::unexpected(size.error()));
    if (!replayed) {
      auto d = damage(r, tolerant, name, replayed.error(),
                      fmt::format("all changes from journal batch {} on", batch));
      if (d && !sabotage.keep_doubtful_mappings) r.state->drop_data_mappings(r.losses);
      return d;
    }
    r.journal_records += *replayed;
    offset += *size;
    ++batch;
  }
  return {};
}

}  // namespace

PoolState::Layout layout_of(const Superblock& s) {
  PoolState::Layout layout;
  layout.blocks = s.pool_bytes / block_size;
  layout.blocks_per_chunk = s.chunk_bytes / block_size;
  layout.node_limit = s.node_limit;
  layout.metadata.push_back({0, s.journal.offset / block_size});
  for (const Area& area : {s.journal, s.checkpoints[0], s.checkpoints[1]})
    layout.metadata.push_back({area.offset / block_size, area.length / block_size});
  return layout;
}

Result<Superblock> read_superblock(blockdev::SyncChannel& channel, const std::string& name,
                                   std::uint64_t store_bytes, std::vector<std::string>& findings) {
  if (store_bytes < 2 * Superblock::slot_stride)
    return fail(ErrorKind::invalid_argument,
                "'{}' is not a pool: it has {}; make one with 'elasticctl create'", name,
                format_size(store_bytes));
  blockdev::AlignedBuffer slots(2 * Superblock::slot_stride);
  if (auto read = channel.read(0, slots.span()); !read) return std::unexpected(read.error());
  Superblock s[2];
  SlotState state[2];
  for (std::size_t i : {0, 1}) {
    state[i] = decode(slots.span().subspan(i * Superblock::slot_stride), s[i]);
    if (state[i] == SlotState::newer)
      return fail(ErrorKind::unsupported,
                  "pool '{}' has a newer format than this program knows (version {}): use a newer "
                  "elasticfs",
                  name, Superblock::version);
  }
  bool valid[2] = {state[0] == SlotState::valid, state[1] == SlotState::valid};
  if (!valid[0] && !valid[1]) {
    if (state[0] == SlotState::absent && state[1] == SlotState::absent)
      return fail(ErrorKind::invalid_argument,
                  "'{}' is not a pool: it has no superblock; make one with 'elasticctl create'",
                  name);
    return fail(ErrorKind::corrupt, "pool '{}': both superblocks are damaged", name);
  }
  for (std::size_t i : {0, 1})
    if (!valid[i])
      findings.push_back(fmt::format("superblock {} is damaged; {} is used instead", i, 1 - i));
  const Superblock& chosen =
      valid[0] && (!valid[1] || s[0].generation >= s[1].generation) ? s[0] : s[1];
  if (chosen.pool_bytes > store_bytes)
    return fail(ErrorKind::corrupt, "pool '{}' is cut short: it was made for {}, {} are there",
                name, format_size_exactly(chosen.pool_bytes), format_size_exactly(store_bytes));
  return chosen;
}

Result<Recovered> recover(blockdev::SyncChannel& channel, const std::string& name,
                          std::uint64_t store_bytes, bool tolerant, const Sabotage& sabotage) {
  Recovered r;
  auto superblock = read_superblock(channel, name, store_bytes, r.findings);
  if (!superblock) return std::unexpected(superblock.error());
  r.superblock = *superblock;
  r.state = std::make_unique<PoolState>(layout_of(r.superblock));
  r.state->set_next_id(r.superblock.next_node);
  if (auto done = load_checkpoint(channel, name, r, tolerant); !done)
    return std::unexpected(done.error());
  if (auto done = replay_journal(channel, name, r, tolerant, sabotage); !done)
    return std::unexpected(done.error());
  if (auto done = r.state->finish_recovery(tolerant, r.findings, r.losses); !done)
    return fail(done.error().kind, "pool '{}': {}: {}", name, done.error().message, repair_hint);
  return r;
}

Result<std::vector<Run>> stale_free_runs(blockdev::BlockStore& store,
                                         const BlockAllocator& allocator) {
  std::vector<Run> data;  // on the store; one pass, as asking for each free run would be slow
  auto located =
      store.locate(0, allocator.blocks() * block_size, [&](const blockdev::Range& range) {
        if (range.kind == blockdev::RangeKind::hole) return true;
        std::uint64_t end = (range.offset + range.length + block_size - 1) / block_size;
        data.push_back({range.offset / block_size, end - range.offset / block_size});
        return true;
      });
  if (!located) return std::unexpected(located.error());
  std::vector<Run> stale;
  std::size_t i = 0;
  allocator.for_free_runs([&](const Run& free) {
    std::uint64_t free_end = free.start + free.count, at = free.start;
    for (; i < data.size() && data[i].start < free_end; ++i) {
      std::uint64_t end = data[i].start + data[i].count;
      std::uint64_t from = std::max(data[i].start, at), to = std::min(end, free_end);
      if (from < to) stale.push_back({from, to - from});
      at = std::max(at, to);
      if (end > free_end) return;  // goes on in the next free run
    }
  });
  return stale;
}

}  // namespace tidepool::pool
