// Moves blocks of one layer of a chain into another one, while the chain serves
// requests.
//
// The content of the chain stays the same at every step, so that readers and
// writers need not wait: a block is copied, then mapped in its new layer, then the
// merged index leads there. What is copied is checked against its hash.
//
// Blocking; one thread.
#pragma once

#include <memory>
#include <vector>

#include "blockdev/chain/chain.h"
#include "blockdev/chain/layer_reader.h"
#include "blockdev/chain/store_copy.h"

namespace tidepool::blockdev::chain {

class BlockMover {
 public:
  // `from` and `to` are numbers of layers; both outlive the mover. `to` may be changed
  // (it is active, or merges).
  static Result<std::unique_ptr<BlockMover>> open(Chain& chain, std::uint32_t from,
                                                  std::uint32_t to, Progress& progress);

  // All blocks of `from`, which is above `to`. `again`: some may be there already.
  Result<> down(bool again);
  // The blocks of `from`, which is below `to`, that show through it.
  Result<> up();
  // `to` holds all blocks of `from` already: only the index has to know.
  void relink();

 private:
  BlockMover(Chain& chain, std::uint32_t from, std::uint32_t to, Progress& progress);
  using Piece = LayerReader::Piece;
  Result<> move_all(Result<> (BlockMover::*move)(const Piece&));
  Result<> move_down(const Piece& piece);
  Result<> move_down_again(const Piece& piece);
  Result<> move_up(const Piece& piece);
  Result<> take(std::uint64_t count);
  Result<> write();
  Result<bool> holds(std::uint64_t block, std::uint64_t number);
  void map(std::uint64_t block, std::uint64_t at, std::uint64_t count);
  void redirect(std::uint64_t block, std::uint64_t count, std::uint64_t slot);
  Result<> settle(std::uint64_t blocks);

  Chain& chain_;
  std::uint32_t to_number_;
  LayerFile& from_;
  LayerFile& to_;
  Progress& progress_;
  std::unique_ptr<LayerReader> source_;
  std::unique_ptr<SyncChannel> target_;
  AlignedBuffer other_;          // one block
  std::vector<SlotRun> runs_;    // that were taken for the piece
  std::uint64_t unsettled_ = 0;  // blocks since the last commit
};

}  // namespace tidepool::blockdev::chain
