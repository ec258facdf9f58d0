// The calls of NFS that a disk needs, in each version: one table of functions per
// version, so that the connection above does not tell them apart.
//
// A file is found once, by name, and known by its handle from then on: a file that takes
// its name later is another one.
//
// Version 4 is used without open state, as minor version 0 with the anonymous state ID:
// there is no lease to keep up, no grace period to wait for, and nothing to reclaim when
// the server is back. Servers that insist on an OPEN do not work with it.
#pragma once

#include <nfsc/libnfs.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

// libnfs's header of raw calls needs this one first.
#include <nfsc/libnfs-raw.h>

#include "base/result.h"
#include "blockdev/stores/nfs_uri.h"
#include "blockdev/stores/remote_link.h"

namespace tidepool::blockdev {

struct NfsFile {
  std::vector<char> handle;
  std::uint64_t size = 0;  // bytes
  bool is_regular = false;
  std::int64_t changed_ns = 0;  // of the content, since 1970, by the server's clock; 0: not told
  std::uint32_t most_read = 0, most_write = 0;  // bytes, of one call; 0: the server does not say
};

struct NfsReply {
  std::uint32_t status = 0;  // nfsstat3 or nfsstat4
  std::uint64_t count = 0;   // bytes read or written
  const char* data = nullptr;
  bool at_end = false;  // of the file
  bool stable = false;
  std::uint64_t verifier = 0;  // of a write or commit
};

// One blocking call: `send` queues it, `take` sees the reply, once.
using NfsAsk = std::function<Result<>(const std::function<int(rpc_cb, void*)>& send,
                                      const std::function<void(void* reply)>& take)>;

struct NfsProtocol {
  int program_version = 0;
  // Largest payload of one write that libnfs can encode; bytes.
  std::uint32_t (*most_write)(rpc_context* rpc) = nullptr;
  // read, write (also of zeros) and flush; 0, or it was not queued.
  int (*send)(rpc_context* rpc, std::span<const char> handle, const RemoteCommand& command,
              rpc_cb replied, void* self) = nullptr;
  NfsReply (*parse)(IoOp op, void* reply) = nullptr;
  // Status, or an error of the connection. `root` is the export's handle (version 3).
  Result<std::uint32_t> (*find)(const NfsAsk& ask, rpc_context* rpc, const NfsLocation& where,
                                std::span<const char> root, NfsFile& file) = nullptr;
};

const NfsProtocol& nfs_v3();
const NfsProtocol& nfs_v4();

// COMPOUND of version 4 as bytes behind the RPC header (nfs42_codec.h), of at most 2048: for
// what libnfs has no names for. 0, or it was not queued. What `replied` is given with
// RPC_STATUS_SUCCESS is for nfs4_bytes_of, whose bytes are there as long as the call to it.
bool nfs4_sends_bytes(rpc_context* rpc);  // false: not with this libnfs
int nfs4_send_bytes(rpc_context* rpc, std::span<const std::byte> arguments, rpc_cb replied,
                    void* self);
std::span<const std::byte> nfs4_bytes_of(void* reply);

// The attributes that find() of version 4 asks for, as the server encodes them; false: they
// are not what was asked for.
bool decode_nfs4_attributes(std::span<const std::uint32_t> mask, std::span<const std::byte> values,
                            NfsFile& into);

}  // namespace tidepool::blockdev
