#include "blockdev/chain/chain_index.h"

#include <array>
#include <queue>

namespace tidepool::blockdev::chain {

Result<std::uint32_t> ChainIndex::add_layer(std::uint64_t slots) {
  std::uint64_t base = by_base_.empty() ? 0 : ends_[by_base_.back()];
  auto place = by_base_.end();
  // Beyond what can be numbered: only between others, then.
  if (base > PackedExtent::block_limit || slots > PackedExtent::block_limit - base) {
    base = 0;
    for (place = by_base_.begin(); place != by_base_.end(); ++place) {
      if (bases_[*place] - base > slots) break;
      base = ends_[*place];
    }
    if (place == by_base_.end()) {
      return fail(ErrorKind::no_space,
                  "the chain has too many slots in all its layers: flatten or commit some");
    }
  }
  const std::uint32_t number = layers();
  bases_.push_back(base);
  ends_.push_back(base + slots + gap);
  by_base_.insert(place, number);
  return number;
}

void ChainIndex::drop_layer(std::uint32_t layer) { std::erase(by_base_, layer); }

ChainPiece ChainIndex::piece_of(const Extent& e) const {
  ChainPiece piece{.block = e.block, .count = e.count};
  if (e.unwritten) {
    piece.kind = ChainPiece::Kind::zero;
    return piece;
  }
  const auto above =
      std::upper_bound(by_base_.begin(), by_base_.end(), e.physical,
                       [&](std::uint64_t slot, std::uint32_t layer) { return slot < bases_[layer]; });
  piece.kind = ChainPiece::Kind::data;
  piece.layer = *(above - 1);
  piece.slot = e.physical - bases_[piece.layer];
  return piece;
}

namespace {

// An extent on its way into the merged map.
struct Source {
  std::uint64_t block = 0, end = 0, physical = 0;
  std::uint32_t layer = 0;
  bool zero = false;
};

struct LowerLayer {
  bool operator()(const Source& a, const Source& b) const { return a.layer < b.layer; }
};

// The same in 16 bytes, to be sorted: by block and layer, as one number.
constexpr unsigned layer_bits = 24, count_bits = 15;
constexpr std::uint64_t layer_mask = (std::uint64_t{1} << layer_bits) - 1;
constexpr std::uint64_t count_mask = (std::uint64_t{1} << count_bits) - 1;
static_assert(PackedExtent::block_limit <= std::uint64_t{1} << (64 - layer_bits));
static_assert(PackedExtent::count_limit == count_mask + 1);

struct SortedSource {
  std::uint64_t place = 0;  // block, layer
  std::uint64_t what = 0;   // physical, zero, count - 1

  static SortedSource pack(const Extent& e, std::uint64_t physical, std::uint32_t layer) {
    return {e.block << layer_bits | layer,
            physical << (count_bits + 1) | std::uint64_t{e.unwritten} << count_bits | (e.count - 1)};
  }
  std::uint64_t block() const { return place >> layer_bits; }
  std::uint32_t layer() const { return static_cast<std::uint32_t>(place & layer_mask); }
  Source unpack() const {
    return {block(), block() + (what & count_mask) + 1, what >> (count_bits + 1), layer(),
            (what >> count_bits & 1) != 0};
  }
};

// By block, digit by digit from the lowest: those of one block stay in order.
void sort_by_block(std::vector<SortedSource>& sources, std::uint64_t highest) {
  constexpr unsigned digit_bits = 11;
  constexpr std::uint64_t digits = std::uint64_t{1} << digit_bits;
  std::vector<SortedSource> sorted(sources.size());
  for (unsigned shift = layer_bits; shift < 64 && highest >> shift != 0; shift += digit_bits) {
    std::array<std::size_t, digits> places{};
    for (const SortedSource& s : sources) ++places[s.place >> shift & (digits - 1)];
    std::size_t place = 0;
    for (auto& p : places) place += std::exchange(p, place);
    for (const SortedSource& s : sources) sorted[places[s.place >> shift & (digits - 1)]++] = s;
    sources.swap(sorted);
  }
}

}  // namespace

void ChainIndex::build(std::span<const std::vector<Extent>> extents) {
  std::vector<SortedSource> sources;
  std::size_t total = 0;
  for (const auto& layer : extents) total += layer.size();
  sources.reserve(total);
  std::uint64_t highest = 0;
  for (std::uint32_t layer = 0; layer < extents.size(); ++layer) {
    for (const Extent& e : extents[layer]) {
      const std::uint64_t physical = e.unwritten ? e.block : bases_[layer] + e.physical;
      sources.push_back(SortedSource::pack(e, physical, layer));
    }
    if (!extents[layer].empty()) highest = std::max(highest, sources.back().place);
  }
  sort_by_block(sources, highest);
  // A sweep over the blocks: of all sources that reach `at`, the highest layer's shows.
  std::priority_queue<Source, std::vector<Source>, LowerLayer> reaching;
  std::uint64_t at = 0;
  const auto emit = [&](const Source& s, std::uint64_t end) {
    if (end <= at) return;
    map_.insert({at, s.physical + (at - s.block), static_cast<std::uint32_t>(end - at), s.zero});
  };
  for (auto next = sources.begin(); next != sources.end() || !reaching.empty();) {
    if (!reaching.empty() && reaching.top().end <= at) {
      reaching.pop();
    } else if (reaching.empty()) {
      at = std::max(at, next->block());
      reaching.push((next++)->unpack());
    } else if (const Source top = reaching.top();
               next == sources.end() || next->block() >= top.end) {
      emit(top, top.end);
      at = top.end;
      reaching.pop();
    } else {
      if (next->layer() > top.layer) {
        emit(top, next->block());
        at = std::max(at, next->block());
      }
      reaching.push((next++)->unpack());
    }
  }
}

void ChainIndex::put(std::uint64_t block, std::uint64_t physical, std::uint64_t count, bool zero) {
  while (count > 0) {
    const auto n =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(count, PackedExtent::count_limit));
    map_.replace({block, physical, n, zero}, [](const Extent&) {});
    block += n;
    physical += n;
    count -= n;
  }
}

void ChainIndex::put_data(std::uint32_t layer, std::uint64_t block, std::uint64_t slot,
                          std::uint64_t count) {
  put(block, bases_[layer] + slot, count, false);
}

void ChainIndex::put_zero(std::uint64_t block, std::uint64_t count) {
  put(block, block, count, true);
}

void ChainIndex::forget(std::uint64_t block, std::uint64_t count) {
  map_.remove(block, block + count, [](const Extent&) {});
}

}  // namespace tidepool::blockdev::chain
