// lease_writer URI: waits for the lease of a disk on NFS, then writes to it without end, each
// write with the lease's token in it, for the server's log to judge (write_log). Ends with
// status 3 when the lease is lost, 1 when something else fails.
//
// For tests that must go red: --no-self-fencing writes without looking at the lease;
// --patient-socket lets a connection wait for an acknowledgement longer than the lease allows.
#include <cstring>
#include <thread>

#include "blockdev/lease/lease.h"
#include "blockdev/stores/nfs_directory.h"
#include "blockdev/stores/nfs_store.h"
#include "blockdev/sync_channel.h"
#include "tests/lib/judge.h"
#include "tests/lib/must.h"

namespace {

using namespace tidepool;
using test::must;
using namespace tidepool::blockdev;

constexpr int exit_lost = 3;

}  // namespace

int main(int argc, char** argv) {
  const judge::Options options(argc, argv, {"lease"}, {"no-self-fencing", "patient-socket"},
                               "usage: lease_writer URI --lease MILLISECONDS [--no-self-fencing]\n"
                               "       [--patient-socket]");
  if (options.words.size() != 1) options.usage_error("one URI is wanted");
  const std::string& uri = options.words[0];
  const auto where = must(parse_nfs_uri(uri));
  const auto terms = lease::terms_of(std::chrono::milliseconds(options.number("lease", 1500)));
  const auto lease = must(lease::Lease::take(
      [&](std::chrono::milliseconds patience, int stop) {
        return nfs_directory(where, where.file + ".lock",
                             {.most = patience, .stop = stop, .keep = true});
      },
      {.terms = terms,
       .disk = uri,
       .host = "lease_writer",
       .wait = true,
       .sabotage = {.no_self_fencing = options.has("no-self-fencing")}}));
  std::printf("holding %llu\n", static_cast<unsigned long long>(lease->token()));
  std::fflush(stdout);
  RemoteOptions how{.permit = [&] { return lease->permit(); }};
  if (!options.has("patient-socket")) how.unacknowledged = unacknowledged_of(terms);
  const auto store = must(open_nfs_store(uri, how));
  const auto channel = must(SyncChannel::open(*store));
  AlignedBuffer block(4096);
  for (std::uint64_t number = 1;; ++number) {
    const std::uint64_t token = lease->token(), process = static_cast<std::uint64_t>(::getpid());
    std::memcpy(block.data(), "TOKENLOG", 8);
    std::memcpy(block.data() + 8, &token, 8);
    std::memcpy(block.data() + 16, &process, 8);
    std::memcpy(block.data() + 24, &number, 8);
    const std::uint64_t blocks = store->geometry().size / block.size();
    auto written = channel->write(number % blocks * block.size(), block.span());
    if (written && number % 16 == 0) written = channel->flush();
    if (written) {
      // A cable is then cut, more often than not, before a request is sent, not while it is
      // answered: so that it is sent into nothing, and again later.
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      continue;
    }
    std::fprintf(stderr, "%s\n", written.error().message.c_str());
    ::_exit(lease->permit() == WritePermit::never ? exit_lost : judge::exit_failed);
  }
}
