// How a range of a file on an NFS server is made a hole: what is to be sent next, and what the
// answer means. A session of minor version 2, made when the first range comes, beside version
// 4.0's calls on the same connection; one call at a time.
//
// The session is a matter of this one connection. When the server has forgotten it (its lease is
// over after a minute or two without a call, and nobody renews it), it is made anew and the call
// is sent again. It holds no open and no lock, so that nothing is lost with it, and
// RECLAIM_COMPLETE, which announces a client that may have something to claim, is not sent. It
// is left behind when the connection ends, and the server drops it.
//
// Pure: no I/O. Source: RFC 8881 sections 2.10 and 18.35, 18.36, 18.46; RFC 7862 section 15.4.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "blockdev/stores/nfs42_codec.h"

namespace tidepool::blockdev {

class Nfs42Session {
 public:
  // `owner`: no other connection's. At most 1024 bytes.
  explicit Nfs42Session(std::string owner) : owner_(std::move(owner)) {}

  // The next call on the way to a hole at [offset, offset + length), in bytes. `handle`, of the
  // file, is borrowed until take().
  std::vector<std::byte> next_call(std::span<const char> handle, std::uint64_t offset,
                                   std::uint64_t length);
  bool is_open() const { return state_ == State::ready; }  // and not known to be forgotten
  struct Outcome {
    enum class What : std::uint8_t {
      again,  // there is a next call for the same range
      done,
      refused,      // `status` says why
      not_offered,  // the server cannot do it: nor will it later
    } what = What::again;
    std::uint32_t status = 0;  // nfsstat4
  };
  // The reply to next_call(): bytes behind the RPC header, from outside.
  Outcome take(std::span<const std::byte> reply);

 private:
  enum class State : std::uint8_t { unknown, known, ready };
  Outcome judge(std::uint32_t status);
  Outcome begin_anew();

  const std::string owner_;
  State state_ = State::unknown;
  nfs42::Client client_;
  nfs42::Deallocation call_;
  unsigned begun_ = 0;  // how often since something was done
};

}  // namespace tidepool::blockdev
