#include "blockdev/stores/nfs42_session.h"

#include <algorithm>
#include <array>

namespace tidepool::blockdev {

namespace {

using What = Nfs42Session::Outcome::What;

constexpr unsigned most_begun = 4;
constexpr std::uint64_t verifier = 1;  // an owner has one life

// The session or the client is not known any more, or out of step.
constexpr std::array<std::uint32_t, 10> lost{
    10011,  // EXPIRED
    10022,  // STALE_CLIENTID
    10052,  // BADSESSION
    10053,  // BADSLOT
    10055,  // CONN_NOT_BOUND_TO_SESSION
    10063,  // SEQ_MISORDERED
    10068,  // RETRY_UNCACHED_REP
    10076,  // SEQ_FALSE_RETRY
    10077,  // BAD_HIGH_SLOT
    10078,  // DEADSESSION
};

// The server has no such operation, no such minor version, or wants more than it is given.
constexpr std::array<std::uint32_t, 9> never{
    10004,  // NOTSUPP
    10021,  // MINOR_VERS_MISMATCH
    10025,  // BAD_STATEID: it insists on an OPEN
    10036,  // BADXDR
    10038,  // OPENMODE
    10044,  // OP_ILLEGAL
    10067,  // REP_TOO_BIG_TO_CACHE
    10070,  // TOO_MANY_OPS
    10071,  // OP_NOT_IN_SESSION
};

bool is_of(std::span<const std::uint32_t> statuses, std::uint32_t status) {
  return std::ranges::find(statuses, status) != statuses.end();
}

}  // namespace

std::vector<std::byte> Nfs42Session::next_call(std::span<const char> handle, std::uint64_t offset,
                                               std::uint64_t length) {
  if (state_ == State::unknown) return nfs42::exchange_id(owner_, verifier);
  if (state_ == State::known) return nfs42::create_session(client_);
  call_.handle = handle;
  call_.offset = offset;
  call_.length = length;
  return nfs42::deallocate(call_);
}

// A server that forgets at once, again and again, does not offer it.
Nfs42Session::Outcome Nfs42Session::begin_anew() {
  state_ = State::unknown;
  if (++begun_ < most_begun) return {.what = What::again};
  begun_ = 0;
  return {.what = What::not_offered};
}

Nfs42Session::Outcome Nfs42Session::judge(std::uint32_t status) {
  if (is_of(lost, status)) return begin_anew();
  if (is_of(never, status)) return {.what = What::not_offered, .status = status};
  return {.what = What::refused, .status = status};
}

Nfs42Session::Outcome Nfs42Session::take(std::span<const std::byte> reply) {
  if (state_ == State::unknown) {
    const auto answer = nfs42::exchanged_id(reply);
    if (!answer) return begin_anew();
    if (answer->status != 0) return judge(answer->status);
    client_ = answer->client;
    state_ = State::known;
    return {};
  }
  if (state_ == State::known) {
    const auto answer = nfs42::created_session(reply);
    if (!answer) return begin_anew();
    if (answer->status != 0) return judge(answer->status);
    call_.session = answer->session;
    call_.sequence = 1;
    state_ = State::ready;
    return {};
  }
  const auto answer = nfs42::deallocated(reply, call_);
  if (!answer) return begin_anew();
  if (answer->slot_used) ++call_.sequence;
  if (answer->status != 0) return judge(answer->status);
  begun_ = 0;
  return {.what = What::done};
}

}  // namespace tidepool::blockdev
