// elasticfs: mounts a pool.
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "base/log.h"
#include "blockdev/stores/file_store.h"
#include "fs/control/control_service.h"
#include "fs/control/live_pool.h"
#include "fs/fuse/daemon.h"
#include "fs/fuse/session.h"

namespace tidepool::elasticfs {

namespace {

constexpr const char* option_help =
    "Mount options (-o A,B,...):\n"
    "  ro               read-only\n"
    "  allow_other      other users may enter (each VM's permissions still hold)\n"
    "  loops=N          threads that serve requests, 1 to 64\n"
    "  spin=US          microseconds to poll for the next request before sleeping\n"
    "  io_uring         FUSE over io_uring (Linux 6.14; switches it on in the kernel)\n"
    "  no_io_uring      never FUSE over io_uring\n"
    "  vhost-user-dir=DIR  offers each disk on a vhost-user-blk socket, DIR/VM/DISK\n"
    "Those of mount(8) that fstab needs (noauto, _netdev, noatime, ...) are accepted.\n"
    "See elasticfs(8).";

int report(const Error& error) {
  std::fprintf(stderr, "elasticfs: %s\n", error.message.c_str());
  return 1;
}

Result<> check_mountpoint(const MountOptions& options) {
  struct stat s {};
  if (::stat(options.mountpoint.c_str(), &s) < 0)
    return fail_errno(errno, fmt::format("mount point '{}'", options.mountpoint));
  if (!S_ISDIR(s.st_mode))
    return fail(ErrorKind::invalid_argument, "mount point '{}' is not a directory",
                options.mountpoint);
  const std::string& sockets = options.vhost_user_directory;
  if (sockets == options.mountpoint || sockets.starts_with(options.mountpoint + "/"))
    return fail(ErrorKind::invalid_argument,
                "vhost-user-dir '{}' is in the mount itself; choose a directory elsewhere, such as "
                "one in /run",
                sockets);
  return {};
}

// Waits for the unmount or a signal that asks for the end.
void wait_for_end(const sigset_t& signals, int disconnected) {
  UniqueFd signal_fd(::signalfd(-1, &signals, SFD_CLOEXEC));
  pollfd events[] = {{signal_fd.get(), POLLIN, 0}, {disconnected, POLLIN, 0}};
  while (::poll(events, 2, -1) < 0 && errno == EINTR) {
  }
}

Result<> serve(const MountOptions& options, Background& background) {
  if (auto r = check_mountpoint(options); !r) return r;
  auto store = control::open_when_free(options.pool, {.read_only = options.read_only});
  if (!store) return std::unexpected(store.error());
  pool::PoolOptions pool_options;
  pool_options.read_only = options.read_only;
  auto opened = pool::Pool::open(*store, pool_options);
  if (!opened) return std::unexpected(opened.error());
  pool::Pool& pool = **opened;

  prepare_for_low_memory();
  UniqueFd disconnected(::eventfd(0, EFD_CLOEXEC));
  if (!disconnected) return fail_errno(errno, "cannot create an eventfd");
  DiskUsers users;
  std::unique_ptr<DiskSockets> sockets;
  if (!options.vhost_user_directory.empty()) {
    auto opened_sockets = DiskSockets::open(pool, users, options.vhost_user_directory);
    if (!opened_sockets) return std::unexpected(opened_sockets.error());
    sockets = std::move(*opened_sockets);
  }
  auto session = Session::mount(pool, options, users, sockets.get(), [&disconnected] {
    std::uint64_t one = 1;
    [[maybe_unused]] ssize_t written = ::write(disconnected.get(), &one, sizeof one);
  });
  if (!session) return std::unexpected(session.error());
  auto control = control::start_control(pool, **store, {options.pool, options.mountpoint});
  if (!control) log().warn("elasticctl cannot reach this mount: {}", control.error().message);
  lift_cache_limits(options.mountpoint);
  if (sockets) sockets->serve(options.mountpoint);
  background.ready();
  notify_service_manager("READY=1");

  sigset_t signals;
  sigemptyset(&signals);
  for (int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  wait_for_end(signals, disconnected.get());
  notify_service_manager("STOPPING=1");
  if (control) control->reset();
  if (sockets) sockets->stop();  // front ends first: they keep the mount in use
  (*session)->stop();
  return {};  // the pool's end commits and closes it
}

int run(int argc, char** argv) {
  MountOptions options;
  std::vector<std::string> option_texts;
  CLI::App app{"Mounts an elastic pool: a directory per VM, a thin file per disk.", "elasticfs"};
  app.footer(option_help);
  app.set_version_flag("-V,--version", "elasticfs 0.1.0");
  app.add_option("POOL", options.pool, "the pool: a file or block device");
  app.add_option("MOUNTPOINT", options.mountpoint, "an existing directory");
  app.add_option("-o", option_texts, "mount options, separated by commas")->allow_extra_args(false);
  app.add_flag("-f,--foreground", options.foreground, "stay in the foreground");
  app.allow_extras();  // so that what is not understood can be named
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (auto unknown = app.remaining(); !unknown.empty()) {
    std::fprintf(stderr, "elasticfs: '%s' is not understood; see elasticfs --help\n",
                 unknown.front().c_str());
    return 2;
  }
  if (options.mountpoint.empty()) {
    std::fprintf(stderr, "elasticfs: %s is required; see elasticfs --help\n",
                 options.pool.empty() ? "POOL" : "MOUNTPOINT");
    return 2;
  }
  for (const std::string& text : option_texts) {
    if (auto r = parse_mount_options(text, options); !r) {
      report(r.error());
      return 2;
    }
  }
  std::error_code ignored;
  for (std::string* path : {&options.pool, &options.mountpoint, &options.vhost_user_directory})
    if (auto full = std::filesystem::absolute(*path, ignored); !path->empty() && !ignored)
      *path = full.lexically_normal().string();
  // In all threads, so that only wait_for_end() takes them.
  sigset_t signals;
  sigemptyset(&signals);
  for (int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);

  Background background = Background::none();
  if (!options.foreground) {
    auto entered = Background::enter();
    if (!entered) return report(entered.error());
    background = std::move(*entered);
  }
  if (auto r = serve(options, background); !r) return report(r.error());
  return 0;
}

}  // namespace

}  // namespace tidepool::elasticfs

int main(int argc, char** argv) { return tidepool::elasticfs::run(argc, argv); }
