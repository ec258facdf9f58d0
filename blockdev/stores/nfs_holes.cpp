// How a connection to an NFS server makes holes: its discards, one at a time, through a session of
// version 4.2; and whether the server can.
#include <utility>

#include "base/checked.h"
#include "base/log.h"
#include "blockdev/stores/nfs_errors.h"
#include "blockdev/stores/nfs_link.h"

namespace tidepool::blockdev {

namespace {

constexpr std::chrono::seconds patience{30};
constexpr std::uint64_t file_block = 1U << 20;  // bytes; no file system's blocks are larger

}  // namespace

// Whether the server makes holes, behind the end of the file, where there is nothing. That it
// does not is no error.
Result<> NfsLink::try_hole(int stop, NfsEndpoint& endpoint) {
  constexpr std::uint64_t largest = std::uint64_t{1} << 62;
  if (endpoint.disk_.size >= largest || !nfs4_sends_bytes(rpc_.get())) return {};
  // The size was rounded down.
  const std::uint64_t beyond = round_down(endpoint.disk_.size, file_block) + 2 * file_block;
  holes_ = std::make_unique<Nfs42Session>(endpoint.new_owner());
  const auto deadline = Clock::now() + patience;
  const auto not_offered = [&](std::uint32_t status) {
    log().debug("'{}': the server makes no holes: {}", uri_, nfs_error(status).text);
    holes_.reset();
    return Result<>();
  };
  for (;;) {
    const auto call = holes_->next_call(handle_, beyond, file_block);
    Nfs42Session::Outcome outcome;
    auto asked = ask(
        stop,
        [&](rpc_cb replied, void* self) {
          return nfs4_send_bytes(rpc_.get(), call, replied, self);
        },
        [&](void* reply) { outcome = holes_->take(nfs4_bytes_of(reply)); });
    if (!asked) return asked;
    using What = Nfs42Session::Outcome::What;
    if (outcome.what == What::again) continue;
    if (outcome.what == What::done) {
      endpoint.disk_.can_trim = endpoint.disk_.can_zero = true;
      return {};
    }
    if (outcome.what == What::not_offered ||
        nfs_error(outcome.status).remedy != NfsError::Remedy::later || Clock::now() >= deadline)
      return not_offered(outcome.status);
    if (auto r = wait_to_ask(stop); !r) return r;
  }
}

void NfsLink::discard_next() {
  if (dead_ || discarding_ || discards_.empty()) return;
  const RemoteCommand& command = discards_.front()->command;
  const auto replied = [](rpc_context*, int status, void* data, void* self) {
    static_cast<NfsLink*>(self)->take_hole_reply(status, data);
  };
  const auto call = holes_->next_call(handle_, command.offset, command.length);
  discarding_ = nfs4_send_bytes(rpc_.get(), call, replied, this) == 0;
  if (!discarding_) die("a call cannot be sent");
}

void NfsLink::take_hole_reply(int status, void* data) {
  discarding_ = false;
  RemoteAnswer& answer = *discards_.front();
  if (status != RPC_STATUS_SUCCESS) {
    const bool has_text = status == RPC_STATUS_ERROR && data != nullptr;
    die(has_text ? static_cast<const char*>(data) : "the connection ended");
    answer.gone = true;
    return end_discard();
  }
  const bool was_open = holes_->is_open();
  const auto outcome = holes_->take(nfs4_bytes_of(data));
  if (was_open && !holes_->is_open()) log().debug("'{}': the server forgot the session", uri_);
  switch (outcome.what) {
    case Nfs42Session::Outcome::What::again:
      return discard_next();
    case Nfs42Session::Outcome::What::not_offered:
      return discard_by_zeros();
    case Nfs42Session::Outcome::What::refused:
      refuse(answer, outcome.status);
      break;
    case Nfs42Session::Outcome::What::done:
      answer.length = answer.command.length;
      answer.server = server_;
      break;
  }
  end_discard();
}

void NfsLink::end_discard() {
  RemoteAnswer& answer = *discards_.front();
  discards_.pop_front();
  answer.answered(answer);
  discard_next();
}

// The server made holes when the disk was opened, and does not any more.
void NfsLink::discard_by_zeros() {
  log().warn("'{}': the server makes no holes any more; zeros are written instead", uri_);
  holes_.reset();
  for (RemoteAnswer* const answer : std::exchange(discards_, {})) {
    if (send_call(*answer) != 0) return die("a call cannot be sent");
  }
}

}  // namespace tidepool::blockdev
