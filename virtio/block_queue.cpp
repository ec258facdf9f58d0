#include "virtio/block_queue.h"

#include <linux/virtio_blk.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <future>
#include <utility>

#include "base/log.h"
#include "virtio/pieces.h"

namespace tidepool::virtio {

using blockdev::IoOp;
using blockdev::IoRequest;

namespace {

constexpr std::uint64_t most_bounced = 256 * 1024;  // bytes at a time
// A busy driver has its next request ready within this; then it need not leave the guest to
// say so, nor this thread sleep.
constexpr std::chrono::microseconds spin{50};

std::uint8_t status_of(int error) {
  if (error == 0) return VIRTIO_BLK_S_OK;
  return error == EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
}

bool aligned(std::span<const iovec> pieces, std::uint32_t alignment) {
  const std::uintptr_t mask = alignment - 1;
  return std::ranges::all_of(pieces, [&](const iovec& piece) {
    return ((reinterpret_cast<std::uintptr_t>(piece.iov_base) | piece.iov_len) & mask) == 0;
  });
}

}  // namespace

BlockQueue::BlockQueue(blockdev::BlockStore& store, const std::string& name,
                       const std::string& serial)
    : store_(store), geometry_(store.geometry()), serial_(serial), writer_(name) {}

Result<std::unique_ptr<BlockQueue>> BlockQueue::create(blockdev::BlockStore& store,
                                                       const std::string& name,
                                                       const std::string& serial) {
  std::unique_ptr<BlockQueue> queue(new BlockQueue(store, name, serial));
  auto thread = LoopThread::start(name, {.spin = spin});
  if (!thread) return std::unexpected(thread.error());
  queue->thread_ = std::move(*thread);
  Result<> opened;
  queue->thread_->call([&] {
    auto channel = store.open_channel(queue->thread_->loop());
    if (channel) queue->channel_ = std::move(*channel);
    if (!channel) opened = std::unexpected(channel.error());
  });
  if (!opened) return std::unexpected(opened.error());
  return queue;
}

BlockQueue::~BlockQueue() {
  if (thread_) thread_->call([this] { channel_.reset(); });
}

Result<> BlockQueue::start(const QueueStart& start, bool event_index, bool stable,
                           std::function<void(const std::string&)> broken) {
  auto queue = SplitQueue::create(writer_, start.layout, event_index, start.position);
  if (!queue) return std::unexpected(queue.error());
  if (start.notes != nullptr) queue->keep_notes(*start.notes, start.left);
  position_ = start.position;
  thread_->call([&] {
    stable_ = stable;
    server_.emplace(
        thread_->loop(), std::move(*queue), start, [this] { return take_all(); },
        std::move(broken));
    server_->resume();
  });
  return {};
}

void BlockQueue::quiesce() {
  std::promise<void> quiet;
  thread_->loop().post([&] {
    if (!server_) return quiet.set_value();
    server_->quiesce([&] {
      position_ = server_->queue().position();
      quiet.set_value();
    });
  });
  quiet.get_future().wait();
}

void BlockQueue::resume() {
  thread_->call([this] {
    if (server_) server_->resume();
  });
}

void BlockQueue::reset() {
  thread_->call([this] { server_.reset(); });
}

// As many requests as the queue has entries: more only a driver offers that gives the
// same entry twice.
bool BlockQueue::take_all() {
  for (;;) {
    if (free_.empty()) {
      full_ = slots_.size() >= server_->queue().layout().size;
      if (full_) return false;
      slots_.push_back(std::make_unique<Slot>());
      slots_.back()->queue = this;
      free_.push_back(slots_.back().get());
    }
    Slot& slot = *free_.back();
    if (!server_->take(slot.chain)) return true;
    free_.pop_back();
    if (!begin(slot)) return true;
  }
}

bool BlockQueue::begin(Slot& slot) {
  auto asked = parse_block_request(slot.chain);
  if (!asked) {
    server_->break_down("a block request without a header or without room for its status");
    server_->give(slot.chain, 0);
    free_.push_back(&slot);
    server_->notify();
    return false;
  }
  slot.asked = *asked;
  if (asked->refusal != 0) return answer(slot, asked->refusal), true;
  switch (asked->command) {
    case BlockCommand::read:
    case BlockCommand::write:
      transfer(slot);
      break;
    case BlockCommand::flush:
      submit(slot, IoOp::flush, 0, 0);
      break;
    case BlockCommand::get_id: {
      std::array<std::byte, block_id_bytes> id{};
      std::memcpy(id.data(), serial_.data(), std::min(serial_.size(), id.size()));
      const auto count = std::min<std::uint64_t>(id.size(), asked->data_length);
      if (count > 0) copy_to(asked->data, 0, std::span(id).first(count));
      answer(slot, VIRTIO_BLK_S_OK);
      break;
    }
    case BlockCommand::discard:
    case BlockCommand::write_zeroes:
      slot.next_range = 0;
      next_range(slot);
      break;
    case BlockCommand::unknown:
      answer(slot, VIRTIO_BLK_S_UNSUPP);
      break;
  }
  return true;
}

void BlockQueue::submit(Slot& slot, IoOp op, std::uint64_t offset, std::uint64_t length) {
  slot.op = op;
  slot.offset = offset;
  slot.length = length;
  slot.force_unit_access = stable_ && op != IoOp::read && op != IoOp::flush;
  slot.complete = [](IoRequest& request, int error) {
    Slot& done = static_cast<Slot&>(request);
    done.queue->advance(done, error);
  };
  channel_->submit(slot);
}

void BlockQueue::transfer(Slot& slot) {
  const BlockRequest& asked = slot.asked;
  if (!aligned(asked.data, geometry_.memory_alignment)) {
    // Else nothing bounds what is bounced: the store would refuse only its first part.
    if (asked.data_length > geometry_.size) return answer(slot, VIRTIO_BLK_S_IOERR);
    slot.bounced = 0;
    slot.bounce = blockdev::AlignedBuffer(most_bounced);
    return transfer_bounced(slot);
  }
  slot.buffers = asked.data.data();
  slot.buffer_count = static_cast<unsigned>(asked.data.size());
  submit(slot, asked.command == BlockCommand::read ? IoOp::read : IoOp::write, asked.offset,
         asked.data_length);
}

void BlockQueue::transfer_bounced(Slot& slot) {
  const BlockRequest& asked = slot.asked;
  const std::uint64_t length = std::min(most_bounced, asked.data_length - slot.bounced);
  slot.bounce_piece = {slot.bounce.data(), length};
  slot.buffers = &slot.bounce_piece;
  slot.buffer_count = 1;
  const bool reading = asked.command == BlockCommand::read;
  if (!reading) {
    copy_from(asked.data, slot.bounced, slot.bounce.span().first(length));
  }
  submit(slot, reading ? IoOp::read : IoOp::write, asked.offset + slot.bounced, length);
}

void BlockQueue::next_range(Slot& slot) {
  const BlockRange& range = slot.asked.ranges[slot.next_range++];
  submit(slot, range.unmap ? IoOp::discard : IoOp::zero, range.offset, range.length);
}

void BlockQueue::advance(Slot& slot, int error) {
  if (error != 0) {
    if (error != EINVAL && error != EROFS && error != EOPNOTSUPP) {  // the driver's fault
      log().warn("{}: {} at {}+{}: {}", writer_.name(), store_.name(), slot.offset, slot.length,
                 std::strerror(error));
    }
    return answer(slot, status_of(error));
  }
  BlockRequest& asked = slot.asked;
  if (slot.next_range < asked.range_count) return next_range(slot);
  if (slot.buffers == &slot.bounce_piece && slot.buffer_count > 0) {
    if (slot.op == IoOp::read) {
      copy_to(asked.data, slot.bounced, slot.bounce.span().first(slot.length));
    }
    slot.bounced += slot.length;
    if (slot.bounced < asked.data_length) return transfer_bounced(slot);
  }
  answer(slot, VIRTIO_BLK_S_OK);
}

void BlockQueue::answer(Slot& slot, std::uint8_t status) {
  *slot.asked.status = status;
  writer_.wrote(reinterpret_cast<const std::byte*>(slot.asked.status), 1);
  slot.buffers = nullptr;
  slot.buffer_count = 0;
  slot.bounce = {};
  const auto written = std::min<std::uint64_t>(slot.chain.writable_bytes, UINT32_MAX);
  free_.push_back(&slot);
  server_->give(slot.chain, static_cast<std::uint32_t>(written));
  server_->notify();
  if (std::exchange(full_, false)) server_->more();
}

}  // namespace tidepool::virtio
