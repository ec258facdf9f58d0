#include <nfsc/libnfs-raw-nfs.h>

#include <algorithm>
#include <cstring>

#include "blockdev/stores/nfs_protocol.h"

namespace tidepool::blockdev {

namespace {

// libnfs's argument structures are not const.
nfs_fh3 as_fh3(std::span<const char> handle) {
  nfs_fh3 out{};
  out.data.data_len = static_cast<u_int>(handle.size());
  out.data.data_val = const_cast<char*>(handle.data());
  return out;
}

std::uint64_t as_number(const char (&verifier)[NFS3_WRITEVERFSIZE]) {
  std::uint64_t out = 0;
  static_assert(sizeof out == NFS3_WRITEVERFSIZE);
  std::memcpy(&out, verifier, sizeof out);
  return out;
}

int send(rpc_context* rpc, std::span<const char> handle, const RemoteCommand& c, rpc_cb replied,
         void* self) {
  if (c.op == IoOp::read) {
    READ3args args{.file = as_fh3(handle), .offset = c.offset, .count = 0};
    args.count = static_cast<count3>(c.length);
    return rpc_nfs3_read_async(rpc, replied, &args, self);
  }
  if (c.op == IoOp::flush) {
    COMMIT3args args{.file = as_fh3(handle), .offset = 0, .count = 0};  // all of it
    return rpc_nfs3_commit_async(rpc, replied, &args, self);
  }
  WRITE3args args{};
  args.file = as_fh3(handle);
  args.offset = c.offset;
  args.count = static_cast<count3>(c.length);
  args.stable = c.force_unit_access ? FILE_SYNC : UNSTABLE;
  args.data.data_len = args.count;
  args.data.data_val = static_cast<char*>(c.data);
  return rpc_nfs3_write_async(rpc, replied, &args, self);
}

NfsReply parse(IoOp op, void* reply) {
  NfsReply out;
  if (op == IoOp::read) {
    const auto& r = *static_cast<READ3res*>(reply);
    out.status = static_cast<std::uint32_t>(r.status);
    if (out.status != 0) return out;
    const auto& ok = r.READ3res_u.resok;
    out.count = std::min(ok.count, ok.data.data_len);
    out.data = ok.data.data_val;
    out.at_end = ok.eof != 0;
  } else if (op == IoOp::flush) {
    const auto& r = *static_cast<COMMIT3res*>(reply);
    out.status = static_cast<std::uint32_t>(r.status);
    if (out.status != 0) return out;
    out.verifier = as_number(r.COMMIT3res_u.resok.verf);
  } else {
    const auto& r = *static_cast<WRITE3res*>(reply);
    out.status = static_cast<std::uint32_t>(r.status);
    if (out.status != 0) return out;
    const auto& ok = r.WRITE3res_u.resok;
    out.count = ok.count;
    out.stable = ok.committed == FILE_SYNC;
    out.verifier = as_number(ok.verf);
  }
  return out;
}

void take_attributes(const fattr3& from, NfsFile& file) {
  file.size = from.size;
  file.is_regular = from.type == NF3REG;
  file.changed_ns = std::int64_t{from.mtime.seconds} * 1'000'000'000 + from.mtime.nseconds;
}

Result<std::uint32_t> find(const NfsAsk& ask, rpc_context* rpc, const NfsLocation& where,
                           std::span<const char> root, NfsFile& file) {
  std::uint32_t status = 0;
  std::string name = where.file;
  auto asked = ask(
      [&](rpc_cb replied, void* self) {
        LOOKUP3args args{};
        args.what.dir = as_fh3(root);
        args.what.name = name.data();
        return rpc_nfs3_lookup_async(rpc, replied, &args, self);
      },
      [&](void* reply) {
        const auto& r = *static_cast<LOOKUP3res*>(reply);
        status = static_cast<std::uint32_t>(r.status);
        if (status != 0) return;
        const auto& fh = r.LOOKUP3res_u.resok.object.data;
        file.handle.assign(fh.data_val, fh.data_val + fh.data_len);
      });
  if (!asked) return std::unexpected(asked.error());
  if (status != 0) return status;
  asked = ask(
      [&](rpc_cb replied, void* self) {
        GETATTR3args args{.object = as_fh3(file.handle)};
        return rpc_nfs3_getattr_async(rpc, replied, &args, self);
      },
      [&](void* reply) {
        const auto& r = *static_cast<GETATTR3res*>(reply);
        status = static_cast<std::uint32_t>(r.status);
        if (status == 0) take_attributes(r.GETATTR3res_u.resok.obj_attributes, file);
      });
  if (!asked) return std::unexpected(asked.error());
  if (status != 0) return status;
  asked = ask(
      [&](rpc_cb replied, void* self) {
        FSINFO3args args{.fsroot = as_fh3(file.handle)};
        return rpc_nfs3_fsinfo_async(rpc, replied, &args, self);
      },
      [&](void* reply) {
        const auto& r = *static_cast<FSINFO3res*>(reply);
        status = static_cast<std::uint32_t>(r.status);
        if (status != 0) return;
        file.most_read = r.FSINFO3res_u.resok.rtmax;
        file.most_write = r.FSINFO3res_u.resok.wtmax;
      });
  if (!asked) return std::unexpected(asked.error());
  return status;
}

// libnfs makes room for the payload; its own limit for a call and a reply.
std::uint32_t most_write(rpc_context*) { return 1U << 20; }

}  // namespace

const NfsProtocol& nfs_v3() {
  static constexpr NfsProtocol protocol{
      .program_version = 3, .most_write = most_write, .send = send, .parse = parse, .find = find};
  return protocol;
}

}  // namespace tidepool::blockdev
