// One connection to an NFS server, by libnfs's raw calls.
//
// Why raw: libnfs's calls on files (nfs_pwrite_async, nfs_fsync_async) hide the write
// verifier, without which nobody sees that a server lost what it had acknowledged, and
// reconnect by themselves, behind the back of who keeps the unstable writes.
//
// The server is known by its write verifier, asked for with a COMMIT of the file before a
// connection is handed out. A server that loses unstable writes and keeps its connections is
// noticed by the next write or flush, but not by reads before that.
//
// Where the server makes holes (version 4, if it offers 4.2), which is found out when the file is
// first opened, by a hole behind its end, a discard is a DEALLOCATE. Its answer has no verifier:
// it counts as unstable, of the server that the link knows, until a COMMIT.
//
// Memory: libnfs allocates each call and copies the payload into it, and a reply out of its
// buffer; that is beyond our reach.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "blockdev/stores/nfs42_session.h"
#include "blockdev/stores/nfs_protocol.h"
#include "blockdev/stores/nfs_uri.h"
#include "blockdev/stores/remote_link.h"
#include "blockdev/stores/remote_options.h"

namespace tidepool::blockdev {

// A file on a server; found by name once, and known by its handle from then on.
class NfsEndpoint final : public RemoteEndpoint {
 public:
  NfsEndpoint(std::string uri, NfsLocation where, const RemoteOptions& options);
  const std::string& uri() const override { return uri_; }
  Result<std::unique_ptr<RemoteLink>> connect(int stop) override;

 private:
  friend class NfsLink;
  std::string new_owner();

  const std::string uri_;
  const NfsLocation where_;
  const bool read_only_;
  const std::chrono::milliseconds unacknowledged_;
  const NfsProtocol& protocol_;
  std::vector<char> handle_;  // empty: not found yet; constant from then on
  RemoteDisk disk_;           // as handle_
  bool flush_failed_ = false;  // since a connection was made
  bool no_holes_ = false;      // the server is not to be asked for them
  std::string owner_;          // what all of Nfs42Session begin with
  std::uint64_t owners_ = 0;
};

class NfsLink final : public RemoteLink {
 public:
  ~NfsLink() override;

  std::uint64_t server() const override { return server_; }
  bool is_dead() override { return dead_; }
  void close() override;
  std::string failure() override { return failure_; }
  int send(const RemoteCommand& command, RemoteAnswer& answer) override;
  std::uint64_t most_of(IoOp op) const override;
  int descriptor() override;
  short awaited() override;
  bool go_on(short events) override;

 private:
  friend class NfsEndpoint;
  struct Destroy {
    void operator()(rpc_context* rpc) const;
  };
  explicit NfsLink(const NfsEndpoint& endpoint);
  Result<> open(int stop, int program, int port);
  Result<> find(int stop, NfsEndpoint& endpoint, std::span<const char> root);
  Result<> try_read(int stop);
  Result<> try_hole(int stop, NfsEndpoint& endpoint);
  Result<> meet(int stop);
  Result<> ask(int stop, const std::function<int(rpc_cb, void*)>& send,
               const std::function<void(void*)>& take);
  Result<std::vector<char>> mount(int stop);
  Result<> wait_to_ask(int stop) const;
  std::unexpected<Error> refused(std::uint32_t status) const;
  int send_call(RemoteAnswer& answer);
  void take_reply(RemoteAnswer& answer, void* reply);
  void refuse(RemoteAnswer& answer, std::uint32_t status);
  void discard_next();
  void take_hole_reply(int status, void* reply);
  void end_discard();
  void discard_by_zeros();
  void die(std::string why);

  const NfsLocation& where_;
  const NfsProtocol& protocol_;
  const std::chrono::milliseconds unacknowledged_;
  const std::vector<char>& handle_;  // the endpoint's, which outlives its links
  std::unique_ptr<rpc_context, Destroy> rpc_;
  // Makes holes; null: zeros are written instead. One at a time; the first one is under way.
  std::unique_ptr<Nfs42Session> holes_;
  std::deque<RemoteAnswer*> discards_;
  bool discarding_ = false;
  bool dead_ = false;
  std::string failure_;
  std::uint64_t server_ = 0;
};

}  // namespace tidepool::blockdev
