// Reads all blocks of a sealed layer, piece by piece, and checks their hashes.
//
// Blocking; one thread. The chain may serve requests meanwhile.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "blockdev/chain/chain.h"

namespace tidepool::blockdev::chain {

// A layer's extents in order; the chain's lock is held only while some are copied. Of an
// active layer, those that change meanwhile may be missing or old. False ends it.
void for_extents(Chain& chain, LayerFile& layer, const std::function<bool(const Extent&)>& sink);

class LayerReader {
 public:
  struct Piece {
    std::uint64_t block = 0, slot = 0, count = 0;  // at most piece_blocks, unless zero
    bool zero = false;
  };
  static constexpr std::uint64_t piece_blocks = 256;

  static Result<std::unique_ptr<LayerReader>> open(Chain& chain, LayerFile& layer);

  // Calls `sink` for all pieces in order, data and zeros, until it fails.
  Result<> for_pieces(const std::function<Result<>(const Piece&)>& sink);

  // The piece's bytes and hashes are there afterwards, until the next call.
  Result<> read(const Piece& piece);
  // The same without looking at the hashes' agreement: damaged() tells.
  Result<> read_unchecked(const Piece& piece);

  std::span<const std::byte> data() const { return {buffer_.data(), count_ * block_bytes}; }
  const std::vector<std::uint64_t>& hashes() const { return hashes_; }  // one per block
  // Which of the piece's blocks (0 .. count - 1) fail their checksum.
  const std::vector<std::uint64_t>& damaged() const { return damaged_; }
  // Names file, offset and block.
  Error damage(const Piece& piece, std::uint64_t number) const;

 private:
  LayerReader(Chain& chain, LayerFile& layer);

  Chain& chain_;
  LayerFile& layer_;
  std::unique_ptr<SyncChannel> channel_;
  mutable AlignedBuffer buffer_;
  std::uint64_t count_ = 0;
  std::vector<std::uint64_t> hashes_, damaged_;
};

}  // namespace tidepool::blockdev::chain
