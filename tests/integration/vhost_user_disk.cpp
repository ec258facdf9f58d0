// A raw file as a vhost-user-blk device, for one front end after the other: for tests.
//
// Usage: vhost_user_disk SOCKET FILE QUEUES [forgetful|holding|slow]
// forgetful: keeps no notes of what is in flight. holding: never answers the first write to the
// disk's start, which it carries out; so it is to be killed. slow: answers what is done every
// 10 ms only; so at most times much is in flight.
// Ends with the first front end that goes; its exit status tells how.
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include "base/unix_address.h"
#include "blockdev/stores/file_store.h"
#include "tests/lib/fault_store.h"
#include "virtio/block_device.h"
#include "virtio/vhost_user/back_end.h"

namespace {

using namespace tidepool;

int report(const Error& error) {
  std::fprintf(stderr, "vhost_user_disk: %s\n", error.message.c_str());
  return 1;
}

UniqueFd accept_one(const char* path) {
  UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const auto address = unix_address(path);
  if (!address ||
      ::bind(listener.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address) != 0 ||
      ::listen(listener.get(), 1) != 0) {
    return {};
  }
  return UniqueFd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
}

// Holds what is done, and lets go of it every 10 ms, until it ends.
class Delay {
 public:
  explicit Delay(test::FaultStore& store) : store_(store) {
    store_.hold({}, test::FaultStore::HoldAt::completion);
  }
  ~Delay() {
    thread_.request_stop();
    thread_.join();
    store_.release_all();
  }

 private:
  void let_go(const std::stop_token& end) {
    while (!end.stop_requested()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      for (auto count = store_.held(); count > 0; --count) store_.release_one();
    }
  }

  test::FaultStore& store_;
  std::jthread thread_{[this](const std::stop_token& end) { let_go(end); }};
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) {
    return std::fprintf(stderr, "usage: vhost_user_disk SOCKET FILE QUEUES [KIND]\n"), 2;
  }
  const std::string_view kind = argc == 5 ? argv[4] : "";
  auto file = blockdev::FileStore::open(argv[2], {});
  if (!file) return report(file.error());
  const auto store = std::make_shared<test::FaultStore>(*file);
  if (kind == "holding") {
    store->hold({.op = blockdev::IoOp::write, .offset = 0, .length = 512},
                test::FaultStore::HoldAt::completion, 1);
  }
  std::optional<Delay> delay;
  if (kind == "slow") delay.emplace(*store);
  auto device = virtio::BlockDevice::create(
      store, {.queues = static_cast<std::uint16_t>(std::stoul(argv[3])), .serial = "disk0"});
  if (!device) return report(device.error());
  UniqueFd connection = accept_one(argv[1]);
  if (!connection) return std::perror("vhost_user_disk"), 1;
  virtio::vhost_user::BackEnd back_end(**device, std::move(connection),
                                       {.replaceable = kind != "forgetful"});
  auto served = back_end.serve();
  return served ? 0 : report(served.error());
}
