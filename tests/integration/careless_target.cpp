// careless_target URI [--forget-unflushed]: an iSCSI target as nas-scsi is one, over a file on NFS, whose logical unit
// lets go of an aborted task's blocks at once. For the twin of what tests that it must not.
// --forget-unflushed: what a server lost is not sent again, either.
//
// Prints its URL when it listens; ends on SIGTERM, once what is under way has ended.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <thread>

#include "blockdev/stores/nfs_store.h"
#include "scsi/iscsi/target.h"
#include "tests/lib/judge.h"
#include "tests/lib/must.h"

namespace {

using namespace tidepool;
using test::must;

class NoStorage final : public scsi::ReservationStorage {
 public:
  Result<scsi::ReservationState> load() override { return scsi::ReservationState(); }
  Result<> save(const scsi::ReservationState&) override { return {}; }
};

}  // namespace

int main(int argc, char** argv) {
  const judge::Options options(argc, argv, {}, {"forget-unflushed"},
                               "usage: careless_target URI [--forget-unflushed]");
  if (options.words.size() != 1) options.usage_error("one URI is wanted");
  sigset_t ending;
  ::sigemptyset(&ending);
  ::sigaddset(&ending, SIGTERM);
  ::sigprocmask(SIG_BLOCK, &ending, nullptr);

  const auto loop = must(EventLoop::create({}));
  const auto helper = must(LoopThread::start("scsi-helper", {}));
  scsi::LogicalUnitOptions how;
  how.forget_aborted = true;
  how.identity.target_name = "iqn.2026-11.test:careless";
  blockdev::RemoteOptions remote;
  remote.forget_unflushed = options.has("forget-unflushed");
  scsi::Device device;
  device.add(0, must(scsi::LogicalUnit::open(*loop, *helper, device,
                                             must(blockdev::open_nfs_store(options.words[0], remote)),
                                             std::make_unique<NoStorage>(), how)));
  scsi::iscsi::LoginPolicy policy;
  policy.target_name = how.identity.target_name;
  scsi::iscsi::Target target(*loop, device, std::move(policy));
  must(target.listen({.host = "127.0.0.1", .port = 0}));
  std::printf("iscsi://%s/%s/0\n", target.portals().front().c_str(),
              how.identity.target_name.c_str());
  std::fflush(stdout);
  target.start();
  std::thread waiter([&] {
    int signal = 0;
    ::sigwait(&ending, &signal);
    loop->stop();
  });
  must(loop->run());
  waiter.join();
  target.stop();
  device.stop();
  while (!target.idle() || !device.idle()) must(loop->poll(true));
  return 0;
}
