#include "blockdev/chain/layer_reader.h"

#include <algorithm>
#include <utility>

namespace tidepool::blockdev::chain {

namespace {
constexpr std::uint64_t extents_at_once = 4096;  // copied under the lock
}  // namespace

LayerReader::LayerReader(Chain& chain, LayerFile& layer)
    : chain_(chain), layer_(layer), buffer_(piece_blocks * block_bytes) {}

Result<std::unique_ptr<LayerReader>> LayerReader::open(Chain& chain, LayerFile& layer) {
  std::unique_ptr<LayerReader> reader(new LayerReader(chain, layer));
  auto channel = SyncChannel::open(layer.store());
  if (!channel) return std::unexpected(channel.error());
  reader->channel_ = std::move(*channel);
  return reader;
}

void for_extents(Chain& chain, LayerFile& layer, const std::function<bool(const Extent&)>& sink) {
  const std::uint64_t blocks = layer.header().blocks();
  std::vector<Extent> extents;
  for (std::uint64_t at = 0; at < blocks;) {
    extents.clear();
    {
      const std::lock_guard lock(chain.lock());
      std::uint64_t end = blocks;
      layer.map().extents().for_range(at, blocks, [&](const Extent& e) {
        extents.push_back(e);
        if (extents.size() < extents_at_once) return true;
        end = e.end();
        return false;
      });
      at = end;
    }
    for (const Extent& e : extents) {
      if (!sink(e)) return;
    }
  }
}

Result<> LayerReader::for_pieces(const std::function<Result<>(const Piece&)>& sink) {
  Result<> done;
  for_extents(chain_, layer_, [&](const Extent& e) {
    for (std::uint64_t i = 0; i < e.count && done;) {
      const std::uint64_t n =
          e.unwritten ? e.count : std::min<std::uint64_t>(piece_blocks, e.count - i);
      done = sink({e.block + i, e.physical + i, n, e.unwritten});
      i += n;
    }
    return done.has_value();
  });
  return done;
}

Result<> LayerReader::read_unchecked(const Piece& piece) {
  count_ = piece.count;
  const auto data = buffer_.span().first(count_ * block_bytes);
  if (auto r = channel_->read(layer_.data_offset(piece.slot), data); !r) return r;
  if (auto r = layer_.load_hashes(chain_.lock(), piece.slot, piece.count); !r) return r;
  hashes_.resize(piece.count);
  {
    const std::lock_guard lock(chain_.lock());
    for (std::uint64_t i = 0; i < piece.count; ++i)
      hashes_[i] = layer_.map().hashes().find(piece.slot + i).value_or(0);
  }
  damaged_.clear();
  for (std::uint64_t i = 0; i < piece.count; ++i)
    if (hash_block(piece.block + i, &data[i * block_bytes]) != hashes_[i]) damaged_.push_back(i);
  return {};
}

Result<> LayerReader::read(const Piece& piece) {
  if (auto r = read_unchecked(piece); !r) return r;
  if (!damaged_.empty()) return std::unexpected(damage(piece, damaged_.front()));
  return {};
}

Error LayerReader::damage(const Piece& piece, std::uint64_t number) const {
  return fail(ErrorKind::corrupt, "layer '{}', offset {}: block {} of the disk fails its checksum",
              layer_.name(), layer_.data_offset(piece.slot + number), piece.block + number)
      .error();
}

}  // namespace tidepool::blockdev::chain
