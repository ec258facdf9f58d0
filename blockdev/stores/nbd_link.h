// One connection to an NBD server: libnbd's handle, connected and checked.
//
// The only code, with nbd_lane, that knows libnbd. Blocking calls are for setting
// up and replaying; requests go through send() and the caller's event loop.
// A link may be handed from thread to thread, and is used by one at a time.
#pragma once

#include <libnbd.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "blockdev/block_store.h"

namespace tidepool::blockdev {

// What the server says of its export.
struct NbdExport {
  std::uint64_t size = 0;                  // bytes, a multiple of least_block
  std::uint32_t least_block = 1;           // bytes
  std::uint32_t most_bytes = 32U << 20;    // of one read or write; a multiple of least_block
  bool read_only = false;
  bool can_flush = false;
  bool can_fua = false;
  bool can_trim = false;
  bool can_zero = false;
  bool multi_conn = false;  // a flush on one connection covers the writes of all
  bool has_status = false;  // base:allocation
};

// What makes `now` unfit to take the place of `before`; empty: nothing.
std::string unfitness(const NbdExport& before, const NbdExport& now);

// One command of the protocol. `length` bytes, at most NbdLink::most_of(op).
struct NbdCommand {
  IoOp op = IoOp::read;  // read, write, flush, zero, discard
  bool force_unit_access = false;
  std::uint64_t offset = 0, length = 0;  // bytes
  void* data = nullptr;                  // read and write: until it is answered
};

class NbdLink {
 public:
  // Blocking, until connected, refused, `stop` is readable (ErrorKind::busy), or half
  // a minute is over.
  static Result<std::unique_ptr<NbdLink>> connect(const std::string& uri, int stop);
  ~NbdLink();
  NbdLink(const NbdLink&) = delete;
  NbdLink& operator=(const NbdLink&) = delete;

  const NbdExport& facts() const { return facts_; }
  nbd_handle* handle() { return handle_.get(); }
  bool is_dead();
  void close() { handle_.reset(); }  // what is in flight is forgotten; is_dead() from now on
  // Why the last call failed, in libnbd's words.
  static std::string failure();

  // 0: it is sent or queued, `answered` is called once, from within a later call or
  // this one. Else an errno, and it is not; is_dead() tells whose fault it is.
  int send(const NbdCommand& command, nbd_completion_callback answered);
  std::uint64_t most_of(IoOp op) const;  // bytes
  // Waits for the server and lets libnbd go on; for who has no event loop.
  Result<> step(int stop, std::chrono::steady_clock::time_point deadline);
  // Whether the server answers a small read. Closed if not.
  bool answers(int stop);

 private:
  explicit NbdLink(const std::string& uri) : uri_(uri), handle_(nbd_create()) {}
  Result<> shake_hands(int stop);
  Result<> learn();

  struct Close {
    void operator()(nbd_handle* handle) const { nbd_close(handle); }
  };
  const std::string uri_;
  std::unique_ptr<nbd_handle, Close> handle_;
  NbdExport facts_;
};

// Whether the server answers that it is about to end: then another one may come.
bool is_farewell(int error);

}  // namespace tidepool::blockdev
