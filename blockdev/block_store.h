// The waist: everything that looks like a disk is a BlockStore.
//
// A store is shared and thread-safe and knows its geometry. Each thread (queue)
// opens an IoChannel on it, bound to that thread's event loop; a channel takes
// requests over the caller's buffers and completes each exactly once, on the
// loop's thread, possibly before submit() returns.
//
// A store also answers "where is this range" (locate): data at an offset of a
// leaf store, hole, or zero. Block status over NBD, SEEK_HOLE, `elasticctl map`
// and `cowchain map` are all this one answer.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "base/result.h"

namespace tidepool::blockdev {

enum class IoOp : std::uint8_t {
  read,
  write,
  flush,     // all writes completed before this request are stable when it completes
  discard,   // the range reads as zeros afterwards; its space goes back to the provider
  zero,      // the range reads as zeros afterwards; its space stays provisioned
  allocate,  // content unchanged; later writes to the range cannot fail for lack of space
};

// One request. Owned by the caller and untouched by it from submit() until
// `complete` is called; buffers belong to the caller for the same time.
struct IoRequest {
  IoOp op = IoOp::read;
  bool force_unit_access = false;  // write, discard, zero: stable when completed
  std::uint64_t offset = 0;        // bytes
  std::uint64_t length = 0;        // bytes; for read and write the sum of the buffers
  const iovec* buffers = nullptr;  // read and write only
  unsigned buffer_count = 0;

  // error: 0, or a positive errno. Called once, on the channel's loop thread.
  // The request may be reused or freed inside the call.
  void (*complete)(IoRequest& self, int error) = nullptr;

  // For the channel that holds the request, between submit and complete.
  Operation operation;
  void* holder = nullptr;
  IoRequest* next = nullptr;
  std::uint64_t progress = 0;
};

class IoChannel {
 public:
  virtual ~IoChannel() = default;
  // Loop thread only. Requests beyond the end of the store complete with EINVAL
  // (read, write) as do those not a multiple of the logical block.
  // All requests must have completed before the channel is destroyed.
  virtual void submit(IoRequest& request) = 0;
};

struct Geometry {
  std::uint64_t size = 0;              // bytes
  std::uint32_t logical_block = 512;   // bytes; offset and length of read/write are multiples
  std::uint32_t memory_alignment = 1;  // bytes; of each buffer's address
  bool read_only = false;
  bool can_discard = false;
};

enum class RangeKind : std::uint8_t { data, hole, zero };  // zero: provisioned, reads as zeros

struct Range {
  std::uint64_t offset = 0;  // bytes, in the store that was asked
  std::uint64_t length = 0;  // bytes
  RangeKind kind = RangeKind::data;
  std::uint64_t leaf_offset = 0;  // data and zero: bytes, in the leaf store
};

class BlockStore {
 public:
  virtual ~BlockStore() = default;
  virtual const std::string& name() const = 0;  // for messages: a path or URI
  virtual Geometry geometry() const = 0;
  // The channel keeps a reference to the loop and to this store: both outlive it.
  virtual Result<std::unique_ptr<IoChannel>> open_channel(EventLoop& loop) = 0;
  // Calls `sink` for consecutive ranges that cover [offset, offset + length)
  // until it returns false.
  virtual Result<> locate(std::uint64_t offset, std::uint64_t length,
                          const std::function<bool(const Range&)>& sink) = 0;
};

}  // namespace tidepool::blockdev
