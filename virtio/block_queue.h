// One queue of a block device: a thread, a channel of the store, the requests that
// are under way.
//
// The public calls come from the transport's thread; all else runs on the queue's own.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/loop_thread.h"
#include "blockdev/block_store.h"
#include "blockdev/sync_channel.h"
#include "virtio/block_request.h"
#include "virtio/queue_server.h"

namespace tidepool::virtio {

class BlockQueue {
 public:
  static Result<std::unique_ptr<BlockQueue>> create(blockdev::BlockStore& store,
                                                    const std::string& name,
                                                    const std::string& serial);
  ~BlockQueue();

  MemoryWriter& writer() { return writer_; }
  // stable: every write is stable when it is answered.
  Result<> start(const QueueStart& start, bool event_index, bool stable,
                 std::function<void(const std::string&)> broken);
  void quiesce();
  void resume();
  void reset();  // of a quiet queue
  QueuePosition position() const { return position_; }
  void on_thread(const std::function<void()>& task) { thread_->call(task); }

 private:
  struct Slot : blockdev::IoRequest {
    BlockQueue* queue = nullptr;
    Chain chain;
    BlockRequest asked;
    std::uint32_t next_range = 0;
    blockdev::AlignedBuffer bounce;  // empty unless this request goes through it
    iovec bounce_piece;
    std::uint64_t bounced = 0;  // bytes that are done
  };
  BlockQueue(blockdev::BlockStore& store, const std::string& name, const std::string& serial);

  bool take_all();
  bool begin(Slot& slot);
  void submit(Slot& slot, blockdev::IoOp op, std::uint64_t offset, std::uint64_t length);
  void transfer(Slot& slot);
  void transfer_bounced(Slot& slot);
  void next_range(Slot& slot);
  void advance(Slot& slot, int error);
  void answer(Slot& slot, std::uint8_t status);

  blockdev::BlockStore& store_;
  const blockdev::Geometry geometry_;
  const std::string serial_;
  MemoryWriter writer_;
  std::unique_ptr<LoopThread> thread_;
  QueuePosition position_;  // since the last quiesce()

  // The queue's thread's.
  std::unique_ptr<blockdev::IoChannel> channel_;
  std::optional<QueueServer> server_;
  bool stable_ = false;
  std::vector<std::unique_ptr<Slot>> slots_;  // as many as were ever under way at once
  std::vector<Slot*> free_;
  bool full_ = false;  // the queue has more than there are slots for
};

}  // namespace tidepool::virtio
