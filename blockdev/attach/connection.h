// Connections to an NBD server for the kernel: libnbd does the handshake, the
// kernel does the rest.
//
// The kernel's client reads simple replies only, so structured replies are not
// asked for. It cannot speak TLS: a server that demands it is refused.
//
// Limits: blocking, with a deadline; any thread, one at a time per object.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace tidepool::blockdev::attach {

// What a server offers.
struct Export {
  std::uint64_t size = 0;          // bytes
  std::uint32_t block_minimum = 1; // bytes
  bool read_only = false;
  bool can_flush = false;
  bool can_fua = false;
  bool can_trim = false;
  bool rotational = false;
  bool multi_conn = false;  // a flush on one connection covers the writes of all

  bool operator==(const Export&) const = default;
  std::uint64_t flags() const;  // as NBD_FLAG_*
};

// A socket after its handshake, without a request under way. It stays open beside
// the kernel's own reference, to see whether it still lives.
class Connection {
 public:
  // `uri` is an NBD URI without TLS.
  static Result<Connection> open(const std::string& uri, std::chrono::seconds deadline);

  const Export& offered() const { return offered_; }
  int fd() const { return fd_.get(); }

  // Whether one side has ended it. Never true while the kernel uses it.
  bool is_dead() const;
  // Whether the kernel has taken it: it gives each socket of a device its timeout,
  // which must not be 0.
  bool is_adopted() const;

 private:
  Connection(UniqueFd fd, const Export& offered) : fd_(std::move(fd)), offered_(offered) {}

  UniqueFd fd_;
  Export offered_;
};

// As many as are wanted, or one if the server is not multi_conn. All offer the same.
Result<std::vector<Connection>> open_connections(const std::string& uri, unsigned wanted,
                                                 std::chrono::seconds deadline);

}  // namespace tidepool::blockdev::attach
