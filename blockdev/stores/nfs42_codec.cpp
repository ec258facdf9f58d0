#include "blockdev/stores/nfs42_codec.h"

#include <algorithm>
#include <bit>

#include "base/codec.h"

namespace tidepool::blockdev::nfs42 {

namespace {

constexpr std::uint32_t minor_version = 2;
enum Op : std::uint32_t {
  put_handle_op = 22,
  exchange_id_op = 42,
  create_session_op = 43,
  sequence_op = 53,
  deallocate_op = 62,
};
constexpr std::uint32_t no_pnfs = 0x00010000;     // EXCHGID4_FLAG_USE_NON_PNFS
constexpr std::uint32_t no_state_protection = 0;  // SP4_NONE
constexpr std::uint32_t least_call = 1024, least_operations = 3;
constexpr std::uint32_t most_call = 4096, most_operations = 8;
constexpr std::uint32_t callback_program = 0x40000000;
constexpr std::uint32_t most_opaque = 1024;  // bytes: NFS4_OPAQUE_LIMIT
constexpr std::uint32_t most_impl_ids = 1;

// XDR has the network's byte order, and fills up opaque data to four bytes.
std::size_t padding(std::size_t length) { return (4 - length % 4) % 4; }

class Writer {
 public:
  explicit Writer(std::uint32_t operations) {
    u32(0);  // no tag
    u32(minor_version);
    u32(operations);
  }
  void u32(std::uint32_t value) { out_.u32(std::byteswap(value)); }
  void u64(std::uint64_t value) { out_.u64(std::byteswap(value)); }
  void fixed(std::span<const std::byte> bytes) { out_.bytes(bytes); }  // a multiple of 4
  void opaque(std::span<const std::byte> bytes) {
    u32(static_cast<std::uint32_t>(bytes.size()));
    out_.bytes(bytes);
    for (std::size_t i = padding(bytes.size()); i > 0; --i) out_.u8(0);
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
  Encoder out_{bytes_};
};

class Reader {
 public:
  explicit Reader(std::span<const std::byte> reply) : in_(reply) {}
  std::uint32_t u32() { return std::byteswap(in_.u32()); }
  std::uint64_t u64() { return std::byteswap(in_.u64()); }
  std::span<const std::byte> fixed(std::size_t count) { return in_.bytes(count); }
  void skip_opaque(std::uint32_t most) {
    const std::uint32_t length = u32();
    if (length > most) bad_ = true;
    in_.bytes(length > most ? 0 : length + padding(length));
  }
  bool failed() const { return bad_ || !in_.ok(); }
  bool whole() const { return !failed() && in_.at_end(); }

 private:
  Decoder in_;
  bool bad_ = false;
};

// What every COMPOUND's results begin with; the number of operations that have one.
struct Head {
  std::uint32_t status = 0, results = 0;
};
Head read_head(Reader& in) {
  Head head;
  head.status = in.u32();
  in.skip_opaque(most_opaque);
  head.results = in.u32();
  return head;
}

// The status of the next result; nothing: it is another operation's.
std::optional<std::uint32_t> read_result(Reader& in, Op op) {
  const std::uint32_t number = in.u32();
  const std::uint32_t status = in.u32();
  // A server that does not know an operation may answer with OP_ILLEGAL's number.
  constexpr std::uint32_t illegal_op = 10044, illegal = 10044;
  const bool fits = number == op || (number == illegal_op && status == illegal);
  if (in.failed() || !fits) return std::nullopt;
  return status;
}

void write_channel(Writer& out) {
  out.u32(0);  // header padding
  out.u32(most_call);
  out.u32(most_call);
  out.u32(most_call);
  out.u32(most_operations);
  out.u32(1);  // requests at a time
  out.u32(0);  // no RDMA
}

// Whether it has room for what is sent.
bool read_channel(Reader& in) {
  in.u32();
  const std::uint32_t call = in.u32(), reply = in.u32();
  in.u32();
  const std::uint32_t operations = in.u32(), requests = in.u32(), rdma = in.u32();
  if (rdma > 1) return false;
  if (rdma == 1) in.u32();
  return call >= least_call && reply >= least_call && operations >= least_operations &&
         requests >= 1;
}

}  // namespace

std::vector<std::byte> exchange_id(std::string_view owner, std::uint64_t verifier) {
  Writer out(1);
  out.u32(exchange_id_op);
  out.u64(verifier);
  out.opaque(std::as_bytes(std::span(owner)));
  out.u32(no_pnfs);
  out.u32(no_state_protection);
  out.u32(0);  // says nothing of the implementation
  return out.take();
}

std::optional<Answer> exchanged_id(std::span<const std::byte> reply) {
  Reader in(reply);
  Answer answer;
  const Head head = read_head(in);
  answer.status = head.status;
  if (head.results == 0 && head.status != 0 && in.whole()) return answer;
  const auto status = read_result(in, exchange_id_op);
  if (!status || head.results != 1 || *status != head.status) return std::nullopt;
  if (head.status != 0) return in.whole() ? std::optional(answer) : std::nullopt;
  answer.client.id = in.u64();
  answer.client.sequence = in.u32();
  in.u32();  // flags
  if (in.u32() != no_state_protection) return std::nullopt;
  in.u64();  // the server's owner: a number and a name
  in.skip_opaque(most_opaque);
  in.skip_opaque(most_opaque);  // its scope
  const std::uint32_t impl_ids = in.u32();
  if (impl_ids > most_impl_ids) return std::nullopt;
  if (impl_ids == 1) {
    in.skip_opaque(most_opaque);
    in.skip_opaque(most_opaque);
    in.u64();
    in.u32();
  }
  return in.whole() ? std::optional(answer) : std::nullopt;
}

std::vector<std::byte> create_session(const Client& client) {
  Writer out(1);
  out.u32(create_session_op);
  out.u64(client.id);
  out.u32(client.sequence);
  out.u32(0);  // flags: not persistent, no callbacks by this connection
  write_channel(out);
  write_channel(out);
  out.u32(callback_program);
  out.u32(1);  // one kind of authentication for callbacks: none
  out.u32(0);
  return out.take();
}

std::optional<Answer> created_session(std::span<const std::byte> reply) {
  Reader in(reply);
  Answer answer;
  const Head head = read_head(in);
  answer.status = head.status;
  if (head.results == 0 && head.status != 0 && in.whole()) return answer;
  const auto status = read_result(in, create_session_op);
  if (!status || head.results != 1 || *status != head.status) return std::nullopt;
  if (head.status != 0) return in.whole() ? std::optional(answer) : std::nullopt;
  std::ranges::copy(in.fixed(answer.session.size()), answer.session.begin());
  in.u32();  // the client's sequence, again
  in.u32();  // flags
  if (!read_channel(in)) return std::nullopt;
  read_channel(in);  // the way back is not used
  return in.whole() ? std::optional(answer) : std::nullopt;
}

std::vector<std::byte> deallocate(const Deallocation& what) {
  Writer out(3);
  out.u32(sequence_op);
  out.fixed(what.session);
  out.u32(what.sequence);
  out.u32(0);  // slot
  out.u32(0);  // the highest slot
  out.u32(0);  // its reply need not be kept
  out.u32(put_handle_op);
  out.opaque(std::as_bytes(what.handle));
  out.u32(deallocate_op);
  for (int i = 0; i < 4; ++i) out.u32(0);  // the anonymous state ID
  out.u64(what.offset);
  out.u64(what.length);
  return out.take();
}

std::optional<Answer> deallocated(std::span<const std::byte> reply, const Deallocation& asked) {
  Reader in(reply);
  Answer answer;
  const Head head = read_head(in);
  answer.status = head.status;
  if (head.results == 0 && head.status != 0 && in.whole()) return answer;
  constexpr std::array operations{sequence_op, put_handle_op, deallocate_op};
  if (head.results == 0 || head.results > operations.size()) return std::nullopt;
  for (std::uint32_t i = 0; i < head.results; ++i) {
    const auto status = read_result(in, operations[i]);
    const bool last = i + 1 == head.results;
    // All but the last succeeded, and its status is the whole's.
    if (!status || *status != (last ? head.status : 0)) return std::nullopt;
    if (i > 0 || *status != 0) continue;
    const auto session = in.fixed(asked.session.size());
    const std::uint32_t sequence = in.u32(), slot = in.u32();
    for (int rest = 0; rest < 3; ++rest) in.u32();  // slots, what the server says of the client
    if (in.failed() || !std::ranges::equal(session, asked.session) || sequence != asked.sequence ||
        slot != 0)
      return std::nullopt;
    answer.slot_used = true;
  }
  if (!in.whole() || (head.status == 0 && head.results != operations.size())) return std::nullopt;
  return answer;
}

}  // namespace tidepool::blockdev::nfs42
