// The I/O of a chain on one event loop.
//
// A request becomes an op: look up (or take slots), read or write the pieces on
// the layers' own channels, verify (or map), complete. Ops are kept and reused.
// Requests of whole blocks over one buffer travel uncopied; others go through
// memory of the op.
#pragma once

#include <memory>
#include <vector>

#include "blockdev/chain/chain.h"

namespace tidepool::blockdev::chain {

struct ChainOp;

class ChainChannel : public IoChannel {
 public:
  ChainChannel(Chain& chain, EventLoop& loop);
  ~ChainChannel() override;
  void submit(IoRequest& request) override;

 private:
  ChainOp& take_op(IoRequest& request);
  void finish(ChainOp& op);
  void read(ChainOp& op);
  void read_done(ChainOp& op);
  bool moved(ChainOp& op);
  void begin_change(ChainOp& op);
  void lock_range(ChainOp& op);
  void change(ChainOp& op);
  void patch(ChainOp& op);
  void gather(ChainOp& op);
  bool take_slots(ChainOp& op);
  void write(ChainOp& op);
  void write_done(ChainOp& op);
  void flush(ChainOp& op);

  void look_up(ChainOp& op);
  void read_pieces(ChainOp& op, void (ChainChannel::*then)(ChainOp&));
  int verify(ChainOp& op);
  void add_piece(ChainOp& op, IoOp kind, IoChannel& channel, std::uint64_t offset,
                 std::byte* data, std::uint64_t length);
  void run(ChainOp& op, void (ChainChannel::*then)(ChainOp&));
  static void piece_done(IoRequest& io, int error);
  IoChannel* channel_of(std::uint32_t layer);
  IoChannel* base_channel();

  Chain& chain_;
  EventLoop& loop_;
  std::vector<std::unique_ptr<IoChannel>> channels_;  // by layer, opened when first used
  std::unique_ptr<IoChannel> base_channel_;
  std::vector<std::unique_ptr<ChainOp>> ops_;  // all that were ever made
  ChainOp* free_ = nullptr;
};

}  // namespace tidepool::blockdev::chain
