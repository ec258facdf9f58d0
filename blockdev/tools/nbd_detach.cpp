// nbd-detach: ends what nbd-attach began.
//
// Exit status: 0 ok, 1 failed, 2 wrong usage.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <thread>

#include "blockdev/attach/device_use.h"
#include "blockdev/attach/nbd_control.h"
#include "blockdev/attach/run_directory.h"

namespace tidepool::tools {
namespace {

using namespace blockdev::attach;
using namespace std::chrono_literals;

constexpr int exit_ok = 0, exit_failed = 1, exit_usage = 2;
constexpr auto supervisor_patience = 90s;  // it stops a server that may have much to write

Result<std::optional<AttachmentState>> find_attachment(std::uint32_t index) {
  auto all = list_attachments();
  if (!all) return std::unexpected(all.error());
  for (AttachmentState& state : *all)
    if (state.index == index) return std::move(state);
  return std::nullopt;
}

Result<> check_attached(NbdControl& control, std::uint32_t index) {
  auto devices = control.status();
  if (!devices) return std::unexpected(devices.error());
  for (const NbdControl::Device& device : *devices)
    if (device.index == index && device.connected) return {};
  return fail(ErrorKind::not_found, "{} is not attached", device_path(index));
}

// The supervisor sees that the device is gone, stops the server and ends.
Result<> wait_for_supervisor(const AttachmentState& attachment) {
  const auto end = std::chrono::steady_clock::now() + supervisor_patience;
  for (;;) {
    auto now = find_attachment(attachment.index);
    if (!now) return std::unexpected(now.error());
    if (!*now || (*now)->pid != attachment.pid) return {};
    if (std::chrono::steady_clock::now() > end) {
      return fail(ErrorKind::busy, "{} is detached, but its server still writes (supervisor {})",
                  device_path(attachment.index), attachment.pid);
    }
    std::this_thread::sleep_for(10ms);
  }
}

Result<> detach(std::uint32_t index, bool force) {
  auto control = NbdControl::open();
  if (!control) return std::unexpected(control.error());
  if (auto attached = check_attached(*control, index); !attached) return attached;
  auto attachment = find_attachment(index);
  if (!attachment) return std::unexpected(attachment.error());

  UniqueFd held;
  if (!force) {
    if (*attachment && (*attachment)->state == "reconnecting") {
      return fail(ErrorKind::busy,
                  "{} waits for its server, with writes that would be lost: --force loses them",
                  device_path(index));
    }
    auto alone = hold_device(index);
    if (!alone) return std::unexpected(alone.error());
    held = std::move(*alone);
    if (auto flushed = flush_device(index, held); !flushed) return flushed;
  }
  {
    auto all = lock_all_attachments();
    if (!all) return std::unexpected(all.error());
    if (*attachment)
      if (auto marked = mark_detaching(index, true); !marked) return marked;
    if (auto done = control->disconnect(index); !done) {
      std::ignore = mark_detaching(index, false);
      return done;
    }
    held.reset();
  }
  if (!*attachment) return {};
  if ((*attachment)->pid != 0) return wait_for_supervisor(**attachment);
  end_left_over(**attachment);
  return {};
}

int run(int argc, char** argv) {
  CLI::App app{"Detaches a device that nbd-attach attached.", "nbd-detach"};
  app.set_version_flag("--version", TIDEPOOL_VERSION);
  std::string device;
  bool force = false;
  app.add_option("DEVICE", device, "The device, such as /dev/nbd0")->required();
  app.add_flag("--force", force, "Also if it is in use, whose I/O then fails; flush nothing");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? exit_ok : exit_usage;
  }
  auto index = device_index(device);
  if (index && ::geteuid() != 0) {
    fmt::print(stderr, "nbd-detach: detaching takes root\n");
    return exit_failed;
  }
  auto done = index ? detach(*index, force) : Result<>(std::unexpected(index.error()));
  if (done) return exit_ok;
  fmt::print(stderr, "nbd-detach: {}\n", done.error().message);
  return index ? exit_failed : exit_usage;
}

}  // namespace
}  // namespace tidepool::tools

int main(int argc, char** argv) { return tidepool::tools::run(argc, argv); }
