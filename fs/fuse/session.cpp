#define FUSE_USE_VERSION 314
#include "fs/fuse/session.h"

#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "base/log.h"
#include "fs/fuse/kernel_abi.h"
#include "fs/fuse/operations.h"

namespace tidepool::elasticfs {

namespace {

constexpr unsigned queue_depth = 32;  // exchanges per kernel queue
constexpr unsigned background_limit = 512;
constexpr const char* uring_switch = "/sys/module/fuse/parameters/enable_uring";

// The connection the next worker reads from: a descriptor of its own.
Result<UniqueFd> clone_connection(int session_fd) {
  UniqueFd fd(::open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return fail_errno(errno, "cannot open /dev/fuse");
  auto source = static_cast<std::uint32_t>(session_fd);
  if (::ioctl(fd.get(), FUSE_DEV_IOC_CLONE, &source) < 0)
    return fail_errno(errno, "cannot clone the FUSE connection");
  return fd;
}

// The kernel offers FUSE over io_uring only while its module parameter says so.
bool switch_on_uring(MountOptions::IoUring wish) {
  if (wish == MountOptions::IoUring::off) return false;
  std::ifstream in(uring_switch);
  std::string state;
  if (!(in >> state)) return false;  // an older kernel
  if (state == "Y" || wish == MountOptions::IoUring::automatic) return state == "Y";
  std::ofstream out(uring_switch);
  out << 'Y' << std::flush;
  if (!out) log().warn("cannot write {}: going on without FUSE over io_uring", uring_switch);
  return out.good();
}

unsigned possible_cpus() {
  std::ifstream in("/sys/devices/system/cpu/possible");
  std::string text;
  in >> text;
  auto dash = text.rfind('-');
  return static_cast<unsigned>(std::atoi(text.c_str() + (dash == text.npos ? 0 : dash + 1))) + 1;
}

}  // namespace

thread_local bool Session::opening_direct = false;

Result<std::unique_ptr<Session>> Session::mount(pool::Pool& pool, const MountOptions& options,
                                                DiskUsers& users, DiskSockets* sockets,
                                                std::function<void()> on_disconnect) {
  std::unique_ptr<Session> session(
      new Session(pool, options, users, sockets, std::move(on_disconnect)));
  std::string kernel_options = "default_permissions,subtype=elasticfs,fsname=";
  for (char c : options.pool) {  // libfuse splits at commas
    if (c == ',' || c == '\\') kernel_options += '\\';
    kernel_options += c;
  }
  if (options.read_only) kernel_options += ",ro";
  for (const std::string& option : options.kernel) kernel_options += "," + option;
  std::string program = "elasticfs", flag = "-o";
  char* argv[] = {program.data(), flag.data(), kernel_options.data()};
  fuse_args args = FUSE_ARGS_INIT(3, argv);
  fuse_lowlevel_ops operations = make_operations();
  session->session_ = fuse_session_new(&args, &operations, sizeof operations, session.get());
  fuse_opt_free_args(&args);
  if (!session->session_)
    return fail(ErrorKind::invalid_argument, "libfuse refuses the mount options '{}'",
                kernel_options);
  if (fuse_session_mount(session->session_, options.mountpoint.c_str()) != 0) {
    fuse_session_destroy(std::exchange(session->session_, nullptr));
    return fail_errno(errno != 0 ? errno : EIO,
                      fmt::format("cannot mount on '{}'", options.mountpoint));
  }
  if (auto r = session->start_workers(); !r) return std::unexpected(r.error());
  return session;
}

Result<> Session::start_workers() {
  int fd = fuse_session_fd(session_);
  static constexpr fuse_custom_io io = {
      .writev = reply,
      .read = [](int, void*, std::size_t, void*) -> ssize_t { return -ENOSYS; },
      .splice_receive = nullptr,
      .splice_send = nullptr,
  };
  if (int error = fuse_session_custom_io(session_, &io, fd); error != 0)
    return fail_errno(-error, "cannot take over the FUSE connection");
  WorkerOptions worker_options;
  worker_options.spin = std::chrono::microseconds(options_.spin_us);
  worker_options.wide_entries = switch_on_uring(options_.io_uring);
  queues_agreed_ = false;
  for (unsigned i = 0; i < options_.loops; ++i) {
    auto own = clone_connection(fd);
    if (!own) return std::unexpected(own.error());
    auto worker = Worker::create(pool_, *this, std::move(*own), worker_options);
    if (!worker) return std::unexpected(worker.error());
    workers_.push_back(std::move(*worker));
  }
  for (auto& worker : workers_) worker->start();
  return {};
}

Session::~Session() {
  stop();
  if (!session_) return;
  fuse_session_unmount(session_);  // what umount2 could not: a mount of fusermount3's
  fuse_session_destroy(session_);
}

void Session::stop() {
  if (session_ && !disconnected_.exchange(true)) unmount();
  for (auto& worker : workers_) worker->stop();
  workers_.clear();
  for (auto& [number, disk] : open_disks_.take_all()) close(*disk);
}

void Session::close(OpenDisk& disk) {
  if (disk.dirties_cache) cached_writers_.remove(disk.id);
  if (disk.cached) disk_users_.close_cached(disk.id);
  if (disk.writes_direct) disk_users_.close_direct(disk.id);
  pool_.release(disk.disk);
}

// While the workers still serve: what the kernel holds back is written first.
void Session::unmount() {
  const char* const path = options_.mountpoint.c_str();
  if (::umount2(path, 0) == 0) return;
  if (errno == EBUSY)
    log().warn("'{}' is in use: detached; what is open there fails from now on", path);
  {
    UniqueFd root(::open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (root) ::syncfs(root.get());
  }
  ::umount2(path, MNT_DETACH);
}

void Session::disconnected() {
  if (!disconnected_.exchange(true)) on_disconnect_();
}

void Session::initialize(fuse_conn_info& c) {
  auto want = [&](unsigned capability) { c.want |= c.capable & capability; };
  want(FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_READDIRPLUS |
       FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_CACHE_SYMLINKS);
  // Requests travel in the exchanges' memory; truncation comes as SETATTR.
  c.want &=
      ~static_cast<unsigned>(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE |
                             FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_AUTO_INVAL_DATA |
                             FUSE_CAP_POSIX_LOCKS | FUSE_CAP_FLOCK_LOCKS | FUSE_CAP_IOCTL_DIR);
  c.max_write = payload_limit;
  c.max_read = 0;
  c.max_readahead = payload_limit;
  c.max_background = background_limit;
  c.congestion_threshold = background_limit * 3 / 4;
  c.time_gran = 1;
}

void Session::receive(Exchange& exchange, std::span<std::byte> message) {
  const auto& header = *reinterpret_cast<const fuse_in_header*>(message.data());
  if (header.opcode == FUSE_INIT && message.size() >= sizeof header + sizeof(fuse_init_in)) {
    fuse_init_in init;
    std::memcpy(&init, message.data() + sizeof header, sizeof init);
    offered_ = init.flags;
    if ((offered_ & abi::init_ext) != 0) offered_ |= std::uint64_t{init.flags2} << 32;
  }
  fuse_buf buffer{};
  buffer.size = message.size();
  buffer.mem = message.data();
  exchange.is_init = header.opcode == FUSE_INIT;
  Exchange::current = &exchange;
  opening_direct = false;
  fuse_session_process_buf(session_, &buffer);
  Exchange::current = nullptr;
}

void Session::amend_init(iovec* parts, int count) {
  if (count < 2 || parts[1].iov_len < sizeof(fuse_init_out)) return;
  auto& out = *static_cast<fuse_init_out*>(parts[1].iov_base);
  if ((offered_ & abi::init_ext) == 0) return;
  // Disks never carry set-user-id bits or capabilities (operations_*.cpp). Told so,
  // the kernel does not ask for them before each write.
  std::uint64_t added = offered_ & (abi::direct_io_allow_mmap | abi::handle_killpriv_v2);
  // A shared mapping keeps pages that a front end's writes do not reach.
  if (disk_sockets_ != nullptr) added &= ~abi::direct_io_allow_mmap;
  bool queues =
      options_.io_uring != MountOptions::IoUring::off && (offered_ & abi::over_io_uring) != 0;
  if (queues) added |= abi::over_io_uring;
  out.flags |= static_cast<std::uint32_t>(abi::init_ext | added);
  out.flags2 |= static_cast<std::uint32_t>(added >> 32);
  queues_agreed_ = queues;
}

void Session::forget_attributes(pool::NodeId node) {
  // ENOENT: the kernel does not know the node any more.
  fuse_lowlevel_notify_inval_inode(session_, node, -1, 0);
}

// libfuse's way out: every reply, on the thread that gives it; notifications, which
// belong to no request, go over the device.
ssize_t Session::reply(int fd, iovec* parts, int count, void* user_data) {
  auto& self = *static_cast<Session*>(user_data);
  const auto& header = *static_cast<const fuse_out_header*>(parts[0].iov_base);
  if (header.unique == 0) return ::writev(fd, parts, count);
  Exchange* exchange = std::exchange(Exchange::current, nullptr);
  ssize_t total = 0;
  for (int i = 0; i < count; ++i) total += static_cast<ssize_t>(parts[i].iov_len);
  if (!exchange) return total;
  bool is_init = exchange->is_init && header.error == 0;
  if (is_init) self.amend_init(parts, count);
  if (opening_direct && count >= 2) {
    // OPEN: the open_out alone; CREATE: behind the entry.
    iovec& last = parts[count - 1];
    if (last.iov_len >= sizeof(fuse_open_out)) {
      auto* open = reinterpret_cast<fuse_open_out*>(static_cast<std::byte*>(last.iov_base) +
                                                    last.iov_len - sizeof(fuse_open_out));
      open->open_flags |= abi::open_parallel_direct_writes;
    }
    opening_direct = false;
  }
  exchange->transport->reply(*exchange, {parts, static_cast<std::size_t>(count)});
  if (is_init && self.queues_agreed_) {
    auto workers = static_cast<unsigned>(self.workers_.size());
    unsigned queues = possible_cpus();
    for (unsigned i = 0; i < workers; ++i)
      self.workers_[i]->serve_queues(i, workers, queues, queue_depth);
  }
  return total;
}

}  // namespace tidepool::elasticfs
