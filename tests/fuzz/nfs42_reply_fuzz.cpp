// A server of NFS 4.2 that says anything while a hole is made. Input: replies, each behind its
// length (two bytes).
#include <string>

#include "base/codec.h"
#include "blockdev/stores/nfs42_session.h"
#include "tests/fuzz/target.h"
#include "tests/lib/nfs42_replies.h"

namespace tidepool::test {

std::vector<Input> seeds() {
  using Replies = std::vector<std::vector<std::byte>>;
  const auto id = Nfs42Reply::exchanged_id(), session = Nfs42Reply::created_session();
  std::vector<Input> inputs;
  for (const Replies& replies :
       {Replies{id, session, Nfs42Reply::deallocated(1), Nfs42Reply::deallocated(2)},
        Replies{id, session, Nfs42Reply::deallocated(1, 10004)},
        Replies{id, session, Nfs42Reply::refused(10052, 53), id, session},
        Replies{id, Nfs42Reply::refused(10022, 43), id, session},
        Replies{Nfs42Reply::refused(10021)}}) {
    Input input;
    Encoder out(input);
    for (const auto& reply : replies) {
      out.u16(static_cast<std::uint16_t>(reply.size()));
      out.bytes(reply);
    }
    inputs.push_back(input);
  }
  return inputs;
}

void run_one(std::span<const std::byte> input) {
  using What = blockdev::Nfs42Session::Outcome::What;
  blockdev::Nfs42Session session("owner");
  const std::string handle = "handle";
  Decoder in(input);
  unsigned again = 0;
  while (!in.at_end()) {
    const auto length = std::min<std::size_t>(in.u16(), in.remaining());
    const auto bytes = in.bytes(length);
    // A copy of the exact size, so that a sanitizer sees a read behind it.
    const Input reply(bytes.begin(), bytes.end());
    const auto call = session.next_call(handle, 0, 512);
    require(!call.empty() && call.size() % 4 == 0 && call.size() <= 2048, "a call is one of XDR");
    const auto outcome = session.take(reply);
    require(outcome.what != What::refused || outcome.status != 0, "a refusal says why");
    require(outcome.what != What::done || reply.size() >= 72, "nothing is done without an answer");
    again = outcome.what == What::again ? again + 1 : 0;
    require(again < 20, "nobody is asked for ever");
  }
}

}  // namespace tidepool::test
