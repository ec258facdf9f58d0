// One connection to a server that holds a disk: what the protocols have in common.
//
// Setting up is each protocol's own and blocks. Then a link is a descriptor to poll,
// and commands that are sent and answered, in any order, from within go_on(), send()
// or the link's end. Blocking waits, for replay, are built on the same.
// A link may be handed from thread to thread, and is used by one at a time.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "blockdev/block_store.h"

namespace tidepool::blockdev {

// What the server says of its disk.
struct RemoteDisk {
  std::uint64_t size = 0;                // bytes, a multiple of least_block
  std::uint32_t least_block = 1;         // bytes
  std::uint32_t most_bytes = 32U << 20;  // of one read or write; a multiple of least_block
  bool read_only = false;
  bool can_flush = false;
  bool can_fua = false;
  bool can_trim = false;
  bool can_zero = false;
  bool multi_conn = false;  // a flush on one connection covers the writes of all
  bool has_status = false;  // knows holes
  std::int64_t changed_ns = 0;  // its content, since 1970, when first connected; 0: not told
};

// What makes `now` unfit to take the place of `before`; empty: nothing.
std::string unfitness(const RemoteDisk& before, const RemoteDisk& now);

// One command. `length` bytes, at most RemoteLink::most_of(op).
struct RemoteCommand {
  IoOp op = IoOp::read;  // read, write, flush, zero, discard
  bool force_unit_access = false;
  std::uint64_t offset = 0, length = 0;  // bytes
  void* data = nullptr;                  // read and write: until it is answered
  // Not null: no IoOp but the question what is there; length in bytes and flags (1: hole,
  // 2: reads as zeros), alternating; the last may reach beyond the range.
  std::vector<std::uint32_t>* extents = nullptr;
};

// The answer to one command; its owner keeps it until `answered` is called.
struct RemoteAnswer {
  void (*answered)(RemoteAnswer& self) = nullptr;

  int error = 0;             // errno
  bool gone = false;         // the server or the connection ended: another one may answer
  bool later = false;        // the server wants to be asked again after a while
  bool stable = false;       // of a change: it needs no flush any more
  std::uint64_t length = 0;  // bytes that were read or changed, from the command's offset on
  std::uint64_t server = 0;  // RemoteLink::server() at that moment

  // The link's, between send and answered.
  class RemoteLink* link = nullptr;
  RemoteCommand command;
};

class RemoteLink {
 public:
  using Clock = std::chrono::steady_clock;
  virtual ~RemoteLink() = default;  // what is in flight may be answered as gone
  RemoteLink(const RemoteLink&) = delete;
  RemoteLink& operator=(const RemoteLink&) = delete;

  const RemoteDisk& facts() const { return facts_; }
  // Which start of the server this is; another number: what was not flushed may be lost.
  // 0: the protocol does not tell.
  virtual std::uint64_t server() const = 0;
  // A flush that belonged to connecting failed or was not answered: what the server had not
  // flushed before may be lost.
  bool flush_failed() const { return flush_failed_; }
  virtual bool is_dead() = 0;
  virtual void close() = 0;  // is_dead() from now on
  // Why the last call failed.
  virtual std::string failure() = 0;

  // 0: it is sent or queued, and will be answered once. Else an errno, and it will not
  // be; is_dead() tells whose fault it is.
  virtual int send(const RemoteCommand& command, RemoteAnswer& answer) = 0;
  virtual std::uint64_t most_of(IoOp op) const = 0;  // bytes

  virtual int descriptor() = 0;
  virtual short awaited() = 0;  // POLLIN, POLLOUT or both
  // After poll has said so; false: the connection has ended.
  virtual bool go_on(short events) = 0;

  // Waits for the server and goes on; for who has no event loop. ErrorKind::busy:
  // `stop` is readable.
  Result<> step(int stop, Clock::time_point deadline);
  // Whether the server answers a small read. Closed if not.
  bool answers(int stop);

 protected:
  explicit RemoteLink(std::string uri) : uri_(std::move(uri)) {}
  const std::string uri_;
  RemoteDisk facts_;
  bool flush_failed_ = false;
};

// Where the links of a store come from.
class RemoteEndpoint {
 public:
  virtual ~RemoteEndpoint() = default;
  virtual const std::string& uri() const = 0;
  // Blocking, until connected, refused, `stop` is readable (ErrorKind::busy), or half a
  // minute is over. One thread at a time.
  virtual Result<std::unique_ptr<RemoteLink>> connect(int stop) = 0;
};

// A host that vanished without a word is noticed, too; and no answer waits for company.
void watch_peer(int socket, std::chrono::milliseconds unacknowledged = std::chrono::seconds(30));

// A socket that is being connected: gives up after some two seconds without an answer instead of
// minutes, so that one who tries again soon finds a host that has come back soon. Others: nothing.
void connect_soon(int socket);

// As many zeros as one command writes where the protocol has none for them. Never
// written: costs no memory.
std::span<std::byte> zero_block();

}  // namespace tidepool::blockdev
