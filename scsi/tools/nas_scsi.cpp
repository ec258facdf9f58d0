// nas-scsi: disks as the logical units of an iSCSI target, and on vhost-user-scsi sockets.
//
// One thread with one event loop, a helper for what blocks, and one for the messages of each
// vhost-user front end. Exit status: 0 ended by a signal, 1 failed, 2 wrong usage.
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <optional>

#include "base/background.h"
#include "base/file_limit.h"
#include "base/freed_memory.h"
#include "base/log.h"
#include "base/scope_guard.h"
#include "scsi/iscsi/target.h"
#include "scsi/names.h"
#include "scsi/tools/identity.h"
#include "scsi/tools/open_disk.h"
#include "scsi/tools/vhost_user_sockets.h"

namespace tidepool::scsi::tools {
namespace {

constexpr int exit_ok = 0, exit_failed = 1, exit_usage = 2;
constexpr const char* default_portal = "127.0.0.1:3260";

struct Arguments {
  std::vector<std::string> disks;
  std::string target_name;
  std::vector<std::string> portals, sockets;
  std::string chap_file, pid_file, background;
  unsigned lease_seconds = 15;
  bool wait = false, shared = false;
  LogicalUnitOptions unit;
};

int report(const Error& error) {
  fmt::print(stderr, "nas-scsi: {}\n", error.message);
  return exit_failed;
}

// SIGTERM and SIGINT as an event of the loop.
class EndingSignals {
 public:
  static Result<std::unique_ptr<EndingSignals>> start(EventLoop& loop) {
    sigset_t ending;
    ::sigemptyset(&ending);
    ::sigaddset(&ending, SIGTERM);
    ::sigaddset(&ending, SIGINT);
    ::sigprocmask(SIG_BLOCK, &ending, nullptr);
    auto signals = std::make_unique<EndingSignals>();
    signals->fd_.reset(::signalfd(-1, &ending, SFD_CLOEXEC));
    if (!signals->fd_) return fail_errno(errno, "cannot wait for signals");
    signals->wait_.loop = &loop;
    signals->wait_.on_complete = [](Operation& self, int, unsigned) {
      static_cast<Wait&>(self).loop->stop();
    };
    io_uring_prep_poll_add(loop.prepare(signals->wait_), signals->fd_.get(), POLLIN);
    return signals;
  }
  int descriptor() const { return fd_.get(); }  // readable, and stays so, once there was one

 private:
  struct Wait : Operation {
    EventLoop* loop = nullptr;
  };
  UniqueFd fd_;
  Wait wait_;
};

struct Leases {
  std::vector<std::unique_ptr<blockdev::lease::Lease>> own;
  std::vector<std::unique_ptr<blockdev::lease::SharedLease>> shared;

  void release() {
    for (const auto& lease : own) lease->release();
    for (const auto& lease : shared) lease->leave();
  }
};

Result<> add_units(const Arguments& a, int stop, EventLoop& loop, LoopThread& helper,
                   Device& device, Leases& leases) {
  for (std::size_t number = 0; number < a.disks.size(); ++number) {
    auto disk = open_disk(a.disks[number], {.read_only = a.unit.read_only,
                                            .lease = std::chrono::seconds(a.lease_seconds),
                                            .shared = a.shared,
                                            .wait = a.wait,
                                            .stop = stop});
    if (!disk) return std::unexpected(disk.error());
    if (disk->lease) leases.own.push_back(std::move(disk->lease));
    LogicalUnitOptions options = a.unit;
    options.sharing = disk->shared.get();
    if (disk->shared) leases.shared.push_back(std::move(disk->shared));
    options.identity.target_name = a.target_name;
    name_unit(options.identity, a.target_name, static_cast<unsigned>(number));
    auto unit = LogicalUnit::open(loop, helper, device, std::move(disk->store),
                                  std::move(disk->reservations), options);
    if (!unit) return std::unexpected(unit.error());
    device.add(static_cast<std::uint16_t>(number), std::move(*unit));
  }
  return {};
}

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return "?";
  return name.data();
}

Result<> write_pid_file(const std::string& path) {
  if (path.empty()) return {};
  std::ofstream out(path, std::ios::trunc);
  out << ::getpid() << '\n' << std::flush;
  if (!out) return fail(ErrorKind::io, "cannot write the pid file '{}'", path);
  return {};
}

std::string announcement(const iscsi::Target& target, const Arguments& a) {
  std::string out;
  for (const std::string& portal : target.portals())
    for (std::size_t number = 0; number < a.disks.size(); ++number)
      out += fmt::format("iscsi://{}/{}/{}\n", portal, a.target_name, number);
  for (const std::string& path : a.sockets) out += fmt::format("vhost-user={}\n", path);
  return out;
}

struct Patience : AdoptableOperation {
  __kernel_timespec length{.tv_sec = 1, .tv_nsec = 0};
  bool over = false;
};

// Until a signal ends it, and until what is under way then has ended. False: it has not, a
// server is away, and it is to be left as by a crash.
Result<bool> run_loop(EventLoop& loop, Device& device, iscsi::Target& target,
                      VhostUserSockets& sockets) {
  if (auto ran = loop.run(); !ran) return std::unexpected(ran.error());
  target.stop();
  sockets.stop();
  device.stop();
  auto patience = std::make_unique<Patience>();
  patience->on_complete = [](Operation& self, int, unsigned) {
    static_cast<Patience&>(self).over = true;
  };
  io_uring_prep_timeout(loop.prepare(*patience), &patience->length, 0, 0);
  const auto all_idle = [&] { return target.idle() && sockets.idle() && device.idle(); };
  while (!patience->over && !all_idle())
    if (auto handled = loop.poll(true); !handled) return std::unexpected(handled.error());
  if (!patience->over) loop.adopt(std::move(patience));
  return all_idle();
}

Result<> serve(const Arguments& a, std::optional<Background>& background) {
  iscsi::LoginPolicy policy;
  policy.target_name = a.target_name;
  if (!a.chap_file.empty()) {
    auto accounts = iscsi::read_accounts(a.chap_file);
    if (!accounts) return std::unexpected(accounts.error());
    policy.accounts = std::move(*accounts);
  }
  auto loop = EventLoop::create({});
  if (!loop) return std::unexpected(loop.error());
  auto signals = EndingSignals::start(**loop);
  if (!signals) return std::unexpected(signals.error());
  auto helper = LoopThread::start("scsi-helper", {});
  if (!helper) return std::unexpected(helper.error());
  Leases leases;  // outlive the units' stores
  ScopeGuard releases([&leases] { leases.release(); });
  Device device;
  if (auto added = add_units(a, (*signals)->descriptor(), **loop, **helper, device, leases); !added)
    return added;
  iscsi::Target target(**loop, device, std::move(policy));
  for (const std::string& text : a.portals) {
    auto portal = iscsi::parse_portal(text);
    if (!portal) return std::unexpected(portal.error());
    if (auto listening = target.listen(*portal); !listening) return listening;
  }
  VhostUserSockets sockets(**loop, device, a.shared ? host_name() : "");
  for (const std::string& path : a.sockets)
    if (auto listening = sockets.listen(path); !listening) return listening;
  if (auto written = write_pid_file(a.pid_file); !written) return written;
  if (background) {
    if (auto gone = background->ready(announcement(target, a), a.background); !gone) return gone;
    background.reset();
  } else {
    fmt::print("{}", announcement(target, a));
    std::fflush(stdout);
  }
  target.start();
  sockets.start();
  auto done = run_loop(**loop, device, target, sockets);
  if (!a.pid_file.empty()) ::unlink(a.pid_file.c_str());
  if (!done) {
    releases.dismiss();  // what is under way is not known
    return std::unexpected(done.error());
  }
  if (!*done) {
    log().warn("requests were not answered by their server any more; they are left unfinished");
    ::_exit(exit_ok);
  }
  return {};
}

int run_serve(const Arguments& a) {
  std::optional<Background> background;
  if (!a.background.empty()) {
    auto begun = Background::start();
    if (!begun) return report(begun.error());
    background.emplace(std::move(*begun));
  }
  auto done = serve(a, background);
  if (done) return exit_ok;
  if (!background) return report(done.error());
  background->failed("nas-scsi: " + done.error().message + "\n");
  return exit_failed;
}

int run(int argc, char** argv) {
  CLI::App app{"Serves disks as the logical units of an iSCSI target, or to virtual machines.",
               "nas-scsi"};
  app.set_version_flag("--version", TIDEPOOL_VERSION);
  Arguments a;
  LogicalUnitOptions& unit = a.unit;
  app.add_option("DISK", a.disks, "Files, block devices or nfs:// URIs: logical units 0, 1, ...")
      ->required()
      ->expected(1, Device::most_luns);
  app.add_option("--target", a.target_name,
                 "The target's name (default: made of the first disk's)");
  app.add_option("--portal", a.portals,
                 "ADDRESS[:PORT] to listen on, may be repeated (default 127.0.0.1:3260, "
                 "or none with --vhost-user)")
      ->allow_extra_args(false);
  app.add_option("--vhost-user", a.sockets,
                 "A vhost-user-scsi socket to make for virtual machines, may be repeated")
      ->allow_extra_args(false);
  app.add_option("--chap-file", a.chap_file, "Names and secrets that initiators must know");
  app.add_flag("--read-only", unit.read_only, "Nothing can be written");
  app.add_flag("--removable", unit.identity.removable, "Media that can be ejected");
  app.add_option("--block-size", unit.block_size, "The logical block, in bytes (default 512)")
      ->check(CLI::IsMember({512U, 4096U}));
  app.add_option("--physical-block-size", unit.physical_block_size,
                 "What is said to be the physical block, in bytes (default 4096)")
      ->check(CLI::Range(512U, 65536U));
  app.add_option("--lease", a.lease_seconds,
                 "Seconds that the lock beside a disk on NFS lasts without being renewed "
                 "(default 15; 0: no lock); alike on all hosts that share the disk")
      ->check(CLI::Range(0U, 3600U));
  app.add_flag("--shared", a.shared,
               "Serve disks on NFS that other hosts serve so, too, each as one unit");
  app.add_flag("--wait", a.wait, "Wait while another host uses a disk on NFS");
  app.add_option("--background", a.background, "Go to the background; messages go to this file");
  app.add_option("--pid-file", a.pid_file, "A file to write the process's number to");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? exit_ok : exit_usage;
  }
  if (a.shared && (unit.read_only || unit.identity.removable || a.lease_seconds == 0)) {
    return report({.kind = ErrorKind::invalid_argument,
                   .message = "--shared goes neither with --read-only and --removable nor "
                              "without a lease"}),
           exit_usage;
  }
  if (a.portals.empty() && a.sockets.empty()) a.portals.push_back(default_portal);
  if (a.target_name.empty()) a.target_name = default_target_name(a.disks.front());
  if (auto valid = check_target_name(a.target_name); !valid)
    return report(valid.error()), exit_usage;
  raise_file_limit();
  keep_freed_memory();
  return run_serve(a);
}

}  // namespace
}  // namespace tidepool::scsi::tools

int main(int argc, char** argv) { return tidepool::scsi::tools::run(argc, argv); }
