#include "blockdev/sync_channel.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/checked.h"
#include "base/log.h"
#include "base/size_text.h"

namespace tidepool::blockdev {

namespace {

struct SyncRequest : IoRequest {
  bool done = false;
  int error = 0;
};

constexpr std::size_t page = 4096;
// From here on memory comes from the kernel, as zeros that cost nothing until they are touched.
constexpr std::size_t large = std::size_t{1} << 20;
constexpr unsigned few_entries = 16;  // one request at a time, however the store splits it

}  // namespace

SyncChannel::SyncChannel(BlockStore& store, EventLoop& loop, std::unique_ptr<IoChannel> channel)
    : store_(store), loop_(loop), channel_(std::move(channel)) {}

Result<std::unique_ptr<EventLoop>> SyncChannel::make_loop() {
  return EventLoop::create({.entries = few_entries, .any_thread = true, .may_block = true});
}

Result<std::unique_ptr<SyncChannel>> SyncChannel::open(BlockStore& store, EventLoop& loop) {
  auto channel = store.open_channel(loop);
  if (!channel) return std::unexpected(channel.error());
  return std::unique_ptr<SyncChannel>(new SyncChannel(store, loop, std::move(*channel)));
}

Result<std::unique_ptr<SyncChannel>> SyncChannel::open(BlockStore& store) {
  auto loop = make_loop();
  if (!loop) return std::unexpected(loop.error());
  auto channel = open(store, **loop);
  if (channel) (*channel)->own_loop_ = std::move(*loop);
  return channel;
}

Result<> SyncChannel::run(IoRequest& prepared, const char* what) {
  SyncRequest request;
  static_cast<IoRequest&>(request) = prepared;
  request.complete = [](IoRequest& self, int error) {
    auto& owner = static_cast<SyncRequest&>(self);
    owner.error = error;
    owner.done = true;
  };
  channel_->submit(request);
  while (!request.done) {
    if (auto handled = loop_.poll(true); !handled) {
      // The request is in the kernel's hands, so its memory cannot be given up.
      log().critical("{}: {}", store_.name(), handled.error().message);
      std::abort();
    }
  }
  if (request.error == 0) return {};
  return fail_errno(request.error, fmt::format("cannot {} '{}' at {}+{}", what, store_.name(),
                                               request.offset, request.length));
}

Result<> SyncChannel::read(std::uint64_t offset, std::span<std::byte> data) {
  const iovec buffer{data.data(), data.size()};
  IoRequest request{.op = IoOp::read,
                    .offset = offset,
                    .length = data.size(),
                    .buffers = &buffer,
                    .buffer_count = 1};
  return run(request, "read");
}

Result<> SyncChannel::write(std::uint64_t offset, std::span<const std::byte> data) {
  const iovec buffer{const_cast<std::byte*>(data.data()), data.size()};
  IoRequest request{.op = IoOp::write,
                    .offset = offset,
                    .length = data.size(),
                    .buffers = &buffer,
                    .buffer_count = 1};
  return run(request, "write");
}

Result<> SyncChannel::flush() {
  IoRequest request{.op = IoOp::flush};
  return run(request, "flush");
}

Result<> SyncChannel::discard(std::uint64_t offset, std::uint64_t length) {
  IoRequest request{.op = IoOp::discard, .offset = offset, .length = length};
  return run(request, "discard");
}

Result<> SyncChannel::zero(std::uint64_t offset, std::uint64_t length) {
  IoRequest request{.op = IoOp::zero, .offset = offset, .length = length};
  return run(request, "zero");
}

AlignedBuffer::AlignedBuffer(std::size_t size) : size_(size) {
  const std::size_t rounded = round_up(size == 0 ? page : size, page);
  void* memory = nullptr;
  if (rounded >= large) {
    memory = ::mmap(nullptr, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) memory = nullptr;
  } else {
    memory = std::aligned_alloc(page, rounded);
    if (memory != nullptr) std::memset(memory, 0, rounded);
  }
  if (memory == nullptr) {
    log().critical("out of memory: no buffer of {}", format_size(size));
    std::abort();
  }
  data_ = std::unique_ptr<std::byte[], Free>(static_cast<std::byte*>(memory),
                                             Free{rounded >= large ? rounded : 0});
}

void AlignedBuffer::Free::operator()(std::byte* data) const {
  if (mapped == 0) return std::free(data);
  ::munmap(data, mapped);
}

}  // namespace tidepool::blockdev
