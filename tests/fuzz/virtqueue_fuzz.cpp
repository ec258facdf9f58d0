// A driver that lies: the input is the guest's memory, rings and all. Each chain that
// comes out lies in it, and so does what the block device makes of the chain. Then the
// same memory is a network driver's, who receives packets.
#include <algorithm>
#include <cstring>

#include "tests/fuzz/target.h"
#include "tests/lib/queue_driver.h"
#include "virtio/block_request.h"
#include "virtio/packet_placer.h"
#include "virtio/split_queue.h"

namespace tidepool::test {

using namespace virtio;

namespace {

constexpr std::uint64_t memory_bytes = 4096;
constexpr std::uint16_t entries = 8;

struct Judge {
  const std::byte* begin;
  const std::byte* end;

  std::uint64_t total(std::span<const iovec> pieces) const {
    std::uint64_t sum = 0;
    for (const iovec& piece : pieces) {
      const auto* const from = static_cast<const std::byte*>(piece.iov_base);
      require(from >= begin && from <= end && piece.iov_len <= static_cast<std::size_t>(end - from),
              "a piece lies in guest memory");
      sum += piece.iov_len;
    }
    return sum;
  }
};

void judge(Chain& chain, const Judge& memory) {
  require(chain.readable + chain.writable <= Chain::most_segments, "a chain is bounded");
  const std::span all(chain.segments);
  require(memory.total(all.first(chain.readable)) == chain.readable_bytes, "readable bytes");
  require(memory.total(all.subspan(chain.readable, chain.writable)) == chain.writable_bytes,
          "writable bytes");
  const auto request = parse_block_request(chain);
  if (!request) return;
  const auto* const status = reinterpret_cast<const std::byte*>(request->status);
  require(status >= memory.begin && status < memory.end, "the status lies in guest memory");
  require(request->range_count <= most_ranges, "ranges are bounded");
  if (request->refusal != 0) return;
  if (request->command == BlockCommand::discard || request->command == BlockCommand::write_zeroes) {
    for (std::uint32_t i = 0; i < request->range_count; ++i)
      require(request->ranges[i].length <= most_range_sectors * sector_bytes, "a range's length");
    return;
  }
  require(memory.total(request->data) == request->data_length, "the data is what was counted");
}

// A queue as the placer sees it.
struct ReceiveQueue {
  SplitQueue& queue;
  unsigned taken = 0;
  std::uint64_t given = 0;  // bytes
  bool take(Chain& chain) {
    const bool got = queue.pop(chain) == PopResult::chain;
    taken += got ? 1 : 0;
    return got;
  }
  void put_back(std::span<const UsedChain> chains) {
    require(chains.size() <= taken, "no more is put back than was taken");
    taken -= static_cast<unsigned>(chains.size());
    queue.put_back(chains);
  }
  void give_all(std::span<const UsedChain> chains) {
    for (const UsedChain& chain : chains) given += chain.written;
    taken -= static_cast<unsigned>(chains.size());
    queue.push_all(chains);
  }
};

void receive(MemoryWriter& writer, const QueueLayout& layout, bool mergeable) {
  auto queue = SplitQueue::create(writer, layout, true, {});
  ReceiveQueue buffers{*queue};
  PacketPlacer placer;
  const std::vector<std::byte> packet(1500, std::byte{0x5a});
  for (unsigned turn = 0; turn < 2 * entries; ++turn) {
    const std::uint64_t before = buffers.given;
    const std::size_t bytes = std::min<std::size_t>(packet.size(), 60 << turn % 6);
    const Placed placed = placer.place(buffers, writer, std::span(packet).first(bytes), mergeable);
    require(buffers.taken == 0, "no buffer is kept");
    require(buffers.given - before == (placed == Placed::yes ? bytes : 0), "all of it or nothing");
    if (placed != Placed::yes) break;
  }
}

}  // namespace

std::vector<Input> seeds() {
  std::vector<Input> inputs;
  for (const bool indirect : {false, true}) {
    for (const std::uint32_t type : {0U, 1U, 4U, 8U, 11U, 13U}) {
      TestMemory memory(memory_bytes);
      QueueDriver driver(memory, entries, true);
      const std::uint64_t header = memory.take(16), data = memory.take(512),
                          status = memory.take(1);
      memory.put(header, type);
      memory.put<std::uint32_t>(data + 8, 8);
      const bool in = type == 0 || type == 8;
      for (int i = 0; i < 2; ++i) {
        driver.add({{header, 16, false}, {data, type > 8 ? 16U : 512U, in}, {status, 1, true}},
                   indirect);
      }
      const std::byte* const start = memory.at(TestMemory::base);
      inputs.emplace_back(start, start + memory_bytes);
    }
  }
  return inputs;
}

void run_one(std::span<const std::byte> input) {
  TestMemory memory(memory_bytes);
  const QueueDriver rings(memory, entries, true);  // for where they are
  std::byte* const start = memory.at(TestMemory::base);
  std::copy_n(input.begin(), std::min<std::size_t>(input.size(), memory_bytes), start);
  MemoryWriter writer("fuzz");
  writer.connect(memory.map());
  writer.start_tracking();
  auto queue = SplitQueue::create(writer, rings.layout(), true, {});
  require(queue.has_value(), "the rings fit");
  const Judge judge_memory{start, start + memory_bytes};
  Chain chain;
  for (unsigned turn = 0; turn <= 2 * entries; ++turn) {
    queue->disable_kicks();
    const PopResult result = queue->pop(chain);
    if (result != PopResult::chain) {
      require(result == PopResult::empty || !queue->fault().empty(), "a fault says something");
      break;
    }
    judge(chain, judge_memory);
    queue->push(chain, static_cast<std::uint32_t>(chain.writable_bytes));
    queue->wants_interrupt();
    queue->enable_kicks();
  }
  for (const bool mergeable : {false, true}) {
    std::fill_n(start, memory_bytes, std::byte{0});
    std::copy_n(input.begin(), std::min<std::size_t>(input.size(), memory_bytes), start);
    receive(writer, rings.layout(), mergeable);
  }
}

}  // namespace tidepool::test
