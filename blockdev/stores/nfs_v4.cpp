// Version 4. libnfs 4.0.0 encodes a COMPOUND into a buffer of 4 KiB, which a write of a
// page does not fit. Its own functions with more room (rpc_allocate_pdu2, rpc_queue_pdu) are
// exported but not declared; they are used here when the structure that they return proves
// to be as expected, else writes are cut into small pieces. The library knows no operation
// of minor versions 1 and 2: these are carried as bytes, encoded by nfs42_codec.
#include <nfsc/libnfs-raw-nfs4.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <memory>

#include "base/codec.h"
#include "blockdev/stores/nfs_protocol.h"

extern "C" {
struct rpc_pdu;
rpc_pdu* rpc_allocate_pdu2(rpc_context* rpc, int program, int version, int procedure, rpc_cb cb,
                           void* private_data, zdrproc_t decode, int decode_bytes, size_t extra);
int rpc_queue_pdu(rpc_context* rpc, rpc_pdu* pdu);
void rpc_free_pdu(rpc_context* rpc, rpc_pdu* pdu);
}

namespace tidepool::blockdev {

namespace {

constexpr std::size_t call_room = 4096;     // bytes, of every call
constexpr std::uint32_t small_write = 3072;  // bytes that fit it beside the rest
constexpr std::uint32_t large_write = 1U << 20;

enum class Attribute : unsigned {
  type = 1,
  size = 4,
  most_read = 30,
  most_write = 31,
  time_modify = 53,
};
constexpr std::uint32_t wanted_attributes = 1U << static_cast<unsigned>(Attribute::type) |
                                            1U << static_cast<unsigned>(Attribute::size) |
                                            1U << static_cast<unsigned>(Attribute::most_read) |
                                            1U << static_cast<unsigned>(Attribute::most_write);
constexpr std::uint32_t wanted_more = 1U << (static_cast<unsigned>(Attribute::time_modify) - 32);
constexpr std::uint32_t regular_file = 1;  // nfs_ftype4

rpc_pdu* new_call(rpc_context* rpc, std::size_t extra, rpc_cb replied, void* self,
                  zdrproc_t decode = reinterpret_cast<zdrproc_t>(zdr_COMPOUND4res),
                  int decoded_bytes = sizeof(COMPOUND4res)) {
  return rpc_allocate_pdu2(rpc, NFS4_PROGRAM, NFS_V4, NFSPROC4_COMPOUND, replied, self, decode,
                           decoded_bytes, extra);
}

struct Bytes {
  const std::byte* data = nullptr;
  std::size_t size = 0;
};

// In the place of a decoder: all that is behind the RPC header, as it is.
std::uint32_t take_bytes(ZDR* zdr, void* into, ...) {
  if (zdr->pos < 0 || zdr->pos > zdr->size) return FALSE;
  *static_cast<Bytes*>(into) = {reinterpret_cast<const std::byte*>(zdr->buf) + zdr->pos,
                                static_cast<std::size_t>(zdr->size - zdr->pos)};
  return TRUE;
}

// Where the encoder is in a call; null: not where libnfs 4.0.0 has it.
ZDR* encoder_of(rpc_pdu* pdu, std::size_t extra) {
  constexpr std::size_t behind_next_id_and_flags = 16;
  auto* const zdr =
      reinterpret_cast<ZDR*>(reinterpret_cast<std::byte*>(pdu) + behind_next_id_and_flags);
  const bool fits = zdr->x_op == ZDR_ENCODE && zdr->size == static_cast<int>(call_room + extra) &&
                    zdr->pos > 0 && zdr->pos < static_cast<int>(call_room / 2);
  return fits ? zdr : nullptr;
}

bool encodes_itself(rpc_context* rpc) {
  constexpr std::size_t odd = 12'345;
  rpc_pdu* const pdu = new_call(rpc, odd, nullptr, nullptr);
  if (pdu == nullptr) return false;
  const bool found = encoder_of(pdu, odd) != nullptr;
  rpc_free_pdu(rpc, pdu);
  return found;
}

std::uint32_t most_write(rpc_context* rpc) { return encodes_itself(rpc) ? large_write : small_write; }

int send_compound(rpc_context* rpc, std::span<nfs_argop4> operations, std::size_t payload,
                  rpc_cb replied, void* self) {
  COMPOUND4args args{};
  args.argarray.argarray_len = static_cast<u_int>(operations.size());
  args.argarray.argarray_val = operations.data();
  if (payload <= small_write) return rpc_nfs4_compound_async(rpc, replied, &args, self);
  rpc_pdu* const pdu = new_call(rpc, payload, replied, self);
  if (pdu == nullptr) return -1;
  ZDR* const zdr = encoder_of(pdu, payload);
  if (zdr == nullptr || zdr_COMPOUND4args(zdr, &args) == 0) {
    rpc_free_pdu(rpc, pdu);
    return -1;
  }
  return rpc_queue_pdu(rpc, pdu);
}

nfs_argop4 put_handle(std::span<const char> handle) {
  nfs_argop4 out{};
  out.argop = OP_PUTFH;
  out.nfs_argop4_u.opputfh.object.nfs_fh4_len = static_cast<u_int>(handle.size());
  out.nfs_argop4_u.opputfh.object.nfs_fh4_val = const_cast<char*>(handle.data());
  return out;
}

int send(rpc_context* rpc, std::span<const char> handle, const RemoteCommand& c, rpc_cb replied,
         void* self) {
  std::array<nfs_argop4, 2> operations{put_handle(handle), nfs_argop4{}};
  auto& what = operations[1];
  std::size_t payload = 0;
  if (c.op == IoOp::read) {  // state IDs stay zero: the anonymous one
    what.argop = OP_READ;
    what.nfs_argop4_u.opread.offset = c.offset;
    what.nfs_argop4_u.opread.count = static_cast<count4>(c.length);
  } else if (c.op == IoOp::flush) {
    what.argop = OP_COMMIT;  // offset and count 0: all of it
  } else {
    what.argop = OP_WRITE;
    auto& write = what.nfs_argop4_u.opwrite;
    write.offset = c.offset;
    write.stable = c.force_unit_access ? FILE_SYNC4 : UNSTABLE4;
    write.data.data_len = static_cast<u_int>(c.length);
    write.data.data_val = static_cast<char*>(c.data);
    payload = c.length;
  }
  return send_compound(rpc, operations, payload, replied, self);
}

std::uint64_t as_number(const char (&verifier)[NFS4_VERIFIER_SIZE]) {
  std::uint64_t out = 0;
  static_assert(sizeof out == NFS4_VERIFIER_SIZE);
  std::memcpy(&out, verifier, sizeof out);
  return out;
}

constexpr std::uint32_t garbled = NFS4ERR_SERVERFAULT;

NfsReply parse(IoOp op, void* reply) {
  NfsReply out;
  const auto& all = *static_cast<COMPOUND4res*>(reply);
  out.status = static_cast<std::uint32_t>(all.status);
  if (out.status != 0) return out;
  if (all.resarray.resarray_len != 2) {
    out.status = garbled;
    return out;
  }
  const nfs_resop4& r = all.resarray.resarray_val[1];
  if (op == IoOp::read && r.resop == OP_READ && r.nfs_resop4_u.opread.status == NFS4_OK) {
    const auto& ok = r.nfs_resop4_u.opread.READ4res_u.resok4;
    out.count = ok.data.data_len;
    out.data = ok.data.data_val;
    out.at_end = ok.eof != 0;
  } else if (op == IoOp::flush && r.resop == OP_COMMIT &&
             r.nfs_resop4_u.opcommit.status == NFS4_OK) {
    out.verifier = as_number(r.nfs_resop4_u.opcommit.COMMIT4res_u.resok4.writeverf);
  } else if (op != IoOp::read && op != IoOp::flush && r.resop == OP_WRITE &&
             r.nfs_resop4_u.opwrite.status == NFS4_OK) {
    const auto& ok = r.nfs_resop4_u.opwrite.WRITE4res_u.resok4;
    out.count = ok.count;
    out.stable = ok.committed == FILE_SYNC4;
    out.verifier = as_number(ok.writeverf);
  } else {
    out.status = garbled;
  }
  return out;
}

void take_file(const COMPOUND4res& all, NfsFile& file, std::uint32_t& status) {
  status = static_cast<std::uint32_t>(all.status);
  if (status != 0) return;
  status = garbled;
  const std::size_t count = all.resarray.resarray_len;
  if (count < 3) return;
  const nfs_resop4& handle = all.resarray.resarray_val[count - 2];
  const nfs_resop4& attributes = all.resarray.resarray_val[count - 1];
  if (handle.resop != OP_GETFH || handle.nfs_resop4_u.opgetfh.status != NFS4_OK) return;
  if (attributes.resop != OP_GETATTR || attributes.nfs_resop4_u.opgetattr.status != NFS4_OK) return;
  const auto& fh = handle.nfs_resop4_u.opgetfh.GETFH4res_u.resok4.object;
  file.handle.assign(fh.nfs_fh4_val, fh.nfs_fh4_val + fh.nfs_fh4_len);
  const auto& got = attributes.nfs_resop4_u.opgetattr.GETATTR4res_u.resok4.obj_attributes;
  if (decode_nfs4_attributes({got.attrmask.bitmap4_val, got.attrmask.bitmap4_len},
                             {reinterpret_cast<const std::byte*>(got.attr_vals.attrlist4_val),
                              got.attr_vals.attrlist4_len},
                             file)) {
    status = 0;
  }
}

Result<std::uint32_t> find(const NfsAsk& ask, rpc_context* rpc, const NfsLocation& where,
                           std::span<const char>, NfsFile& file) {
  std::string path = where.directory + "/" + where.file;
  std::vector<nfs_argop4> operations(1);
  operations[0].argop = OP_PUTROOTFH;
  for (std::size_t at = 0; at < path.size();) {
    const std::size_t end = std::min(path.find('/', at), path.size());
    if (end > at) {
      nfs_argop4 lookup{};
      lookup.argop = OP_LOOKUP;
      lookup.nfs_argop4_u.oplookup.objname.utf8string_len = static_cast<u_int>(end - at);
      lookup.nfs_argop4_u.oplookup.objname.utf8string_val = path.data() + at;
      operations.push_back(lookup);
    }
    at = end + 1;
  }
  std::array<std::uint32_t, 2> mask{wanted_attributes, wanted_more};
  nfs_argop4 last{};
  last.argop = OP_GETFH;
  operations.push_back(last);
  last.argop = OP_GETATTR;
  last.nfs_argop4_u.opgetattr.attr_request.bitmap4_len = mask.size();
  last.nfs_argop4_u.opgetattr.attr_request.bitmap4_val = mask.data();
  operations.push_back(last);
  std::uint32_t status = garbled;
  const auto asked = ask(
      [&](rpc_cb replied, void* self) {
        return send_compound(rpc, operations, 0, replied, self);
      },
      [&](void* reply) { take_file(*static_cast<COMPOUND4res*>(reply), file, status); });
  if (!asked) return std::unexpected(asked.error());
  return status;
}

}  // namespace

bool decode_nfs4_attributes(std::span<const std::uint32_t> mask, std::span<const std::byte> values,
                            NfsFile& into) {
  constexpr std::array wanted{wanted_attributes, wanted_more};
  for (std::size_t word = 0; word < mask.size(); ++word)
    if ((mask[word] & ~(word < wanted.size() ? wanted[word] : 0)) != 0) return false;
  Decoder in(values);  // but the network's byte order is the other one
  const auto u32 = [&] { return std::byteswap(in.u32()); };
  const auto u64 = [&] { return std::byteswap(in.u64()); };
  const auto has = [&](Attribute which) {
    const auto bit = static_cast<unsigned>(which);
    return bit / 32 < mask.size() && (mask[bit / 32] >> bit % 32 & 1U) != 0;
  };
  const auto limit = [](std::uint64_t bytes) {
    return static_cast<std::uint32_t>(std::min<std::uint64_t>(bytes, 1U << 30));
  };
  if (!has(Attribute::type) || !has(Attribute::size)) return false;
  into.is_regular = u32() == regular_file;
  into.size = u64();
  into.most_read = has(Attribute::most_read) ? limit(u64()) : 0;
  into.most_write = has(Attribute::most_write) ? limit(u64()) : 0;
  into.changed_ns = 0;
  if (has(Attribute::time_modify)) {
    const std::uint64_t seconds = u64();
    const std::uint32_t nanoseconds = u32();
    // Wraps for times beyond the year 2262: they are only compared.
    into.changed_ns = static_cast<std::int64_t>(seconds * 1'000'000'000 + nanoseconds);
  }
  return in.ok() && in.at_end();
}

bool nfs4_sends_bytes(rpc_context* rpc) { return encodes_itself(rpc); }

int nfs4_send_bytes(rpc_context* rpc, std::span<const std::byte> arguments, rpc_cb replied,
                    void* self) {
  constexpr std::size_t most = call_room / 2;
  if (arguments.size() > most) return -1;
  rpc_pdu* const pdu = new_call(rpc, 0, replied, self, take_bytes, sizeof(Bytes));
  if (pdu == nullptr) return -1;
  ZDR* const zdr = encoder_of(pdu, 0);
  if (zdr == nullptr) {
    rpc_free_pdu(rpc, pdu);
    return -1;
  }
  std::memcpy(zdr->buf + zdr->pos, arguments.data(), arguments.size());
  zdr->pos += static_cast<int>(arguments.size());
  return rpc_queue_pdu(rpc, pdu);
}

std::span<const std::byte> nfs4_bytes_of(void* reply) {
  const auto& bytes = *static_cast<const Bytes*>(reply);
  return {bytes.data, bytes.size};
}

const NfsProtocol& nfs_v4() {
  static constexpr NfsProtocol protocol{
      .program_version = 4, .most_write = most_write, .send = send, .parse = parse, .find = find};
  return protocol;
}

}  // namespace tidepool::blockdev
