#include "fs/sockets/disk_sockets.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "base/file_limit.h"
#include "base/log.h"
#include "base/quiet_thread.h"
#include "base/scope_guard.h"
#include "base/unix_address.h"
#include "fs/pool/pool_channel.h"
#include "fs/sockets/socket_mode.h"
#include "virtio/block_device.h"
#include "virtio/vhost_user/back_end.h"

namespace tidepool::elasticfs {

namespace {

constexpr mode_t directory_mode = 0711;
constexpr std::uint16_t queues = 8;                   // of a disk; a front end may use fewer
constexpr const char* marker = ".elasticfs-sockets";  // in a directory that is ours to clean

// A socket's path is short; through the directory's descriptor it is shorter.
Result<sockaddr_un> address_in(int directory, const std::string& name) {
  auto address = unix_address(fmt::format("/proc/self/fd/{}/{}", directory, name));
  if (!address) return fail(ErrorKind::unsupported, "its name is too long for a socket's path");
  return address;
}

UniqueFd open_directory(int parent, const char* name) {
  return UniqueFd(::openat(parent, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

// sink(name, mode) for each entry.
template <class Sink>
void for_entries(int directory, Sink&& sink) {
  UniqueFd own(::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  DIR* const list = own ? ::fdopendir(own.get()) : nullptr;
  if (list == nullptr) return;
  own.release();
  while (const dirent* const entry = ::readdir(list)) {
    struct stat status {};
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    if (::fstatat(directory, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) continue;
    sink(name, status.st_mode);
  }
  ::closedir(list);
}

// The sockets of disks, one level below, and the directories that they leave empty: nobody
// serves them, as we have the lock and the directory is ours.
void remove_left(int directory) {
  for_entries(directory, [directory](const std::string& vm, mode_t kind) {
    if (!S_ISDIR(kind)) return;
    if (const UniqueFd inner = open_directory(directory, vm.c_str())) {
      for_entries(inner.get(), [&inner](const std::string& disk, mode_t mode) {
        if (S_ISSOCK(mode)) ::unlinkat(inner.get(), disk.c_str(), 0);
      });
    }
    ::unlinkat(directory, vm.c_str(), AT_REMOVEDIR);
  });
}

// What is removed there must be ours: the directory was empty when it was first given, and
// nobody else can put names into it.
Result<> claim(int directory, const std::string& name) {
  struct stat own {};
  if (::fstat(directory, &own) != 0 || own.st_uid != ::geteuid() || (own.st_mode & 0022) != 0) {
    return fail(ErrorKind::permission,
                "'{}' cannot hold the disks' sockets: it must be this user's, and nobody else may "
                "write to it",
                name);
  }
  if (::faccessat(directory, marker, F_OK, AT_SYMLINK_NOFOLLOW) == 0) return {};
  bool is_empty = true;
  for_entries(directory, [&is_empty](const std::string&, mode_t) { is_empty = false; });
  if (!is_empty) {
    return fail(ErrorKind::invalid_argument,
                "'{}' holds other files: give the disks' sockets an empty directory", name);
  }
  if (!UniqueFd(::openat(directory, marker, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600))) {
    return fail_errno(errno, fmt::format("cannot write to '{}'", name));
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<DiskSockets>> DiskSockets::open(pool::Pool& pool, DiskUsers& users,
                                                       const std::string& directory) {
  if (::mkdir(directory.c_str(), 0755) != 0 && errno != EEXIST) {
    return fail_errno(errno, fmt::format("cannot make '{}' for the disks' sockets", directory));
  }
  UniqueFd descriptor(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!descriptor) return fail_errno(errno, fmt::format("'{}', for the disks' sockets", directory));
  if (::flock(descriptor.get(), LOCK_EX | LOCK_NB) != 0) {
    return fail(ErrorKind::busy,
                "'{}' holds the sockets of another mount; give each mount a directory of its own",
                directory);
  }
  if (auto claimed = claim(descriptor.get(), directory); !claimed) {
    return std::unexpected(claimed.error());
  }
  raise_file_limit();
  remove_left(descriptor.get());
  std::unique_ptr<DiskSockets> sockets(
      new DiskSockets(pool, users, directory, std::move(descriptor)));
  sockets->events_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  sockets->wakeup_ = UniqueFd(::eventfd(0, EFD_CLOEXEC));
  epoll_event wakeup{.events = EPOLLIN, .data = {.u64 = 0}};  // 0 is no node's number
  if (!sockets->events_ || !sockets->wakeup_ ||
      ::epoll_ctl(sockets->events_.get(), EPOLL_CTL_ADD, sockets->wakeup_.get(), &wakeup) != 0) {
    return fail_errno(errno, "cannot wait for front ends");
  }
  auto vms = pool.list(pool::root_id);
  if (!vms) return std::unexpected(vms.error());
  for (const pool::DirectoryEntry& vm : *vms) sockets->refresh(vm.id);
  return sockets;
}

DiskSockets::~DiskSockets() {
  stop();
  while (!listeners_.empty()) remove_disk(listeners_.begin()->first);
  while (!vms_.empty()) remove_vm(vms_.begin()->first);
}

void DiskSockets::serve(const std::string& mountpoint) {
  mountpoint_ = mountpoint;
  thread_ = start_quiet_thread("disk sockets", [this] { accept_all(); });
}

void DiskSockets::stop() {
  if (!thread_.joinable()) return;
  stopping_ = true;
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(wakeup_.get(), &one, sizeof one);
  thread_.join();
}

// --- names ---

void DiskSockets::refresh(pool::NodeId node) {
  std::scoped_lock lock(mutex_);
  if (auto refreshed = refresh_node(node); !refreshed) {
    log().warn("{}", refreshed.error().message);
  }
}

Result<> DiskSockets::refresh_node(pool::NodeId node) {
  const auto attributes = pool_.attributes(node);
  if (attributes && attributes->kind == pool::NodeKind::vm) return refresh_vm(*attributes);
  if (attributes && attributes->kind == pool::NodeKind::disk && attributes->parent != 0) {
    return refresh_disk(*attributes);
  }
  remove_disk(node);
  remove_vm(node);
  return {};
}

Result<> DiskSockets::refresh_vm(const pool::Attributes& vm) {
  const auto name = pool_.name_of(vm.id);
  if (!name) return std::unexpected(name.error());
  const auto known = vms_.find(vm.id);
  if (known == vms_.end()) {
    if (::mkdirat(descriptor_.get(), name->c_str(), directory_mode) != 0 && errno != EEXIST) {
      return fail_errno(errno, fmt::format("VM '{}' has no sockets: cannot make '{}/{}'", *name,
                                           directory_, *name));
    }
    vms_.emplace(vm.id, *name);
  } else if (known->second != *name) {
    if (::renameat(descriptor_.get(), known->second.c_str(), descriptor_.get(), name->c_str()) !=
        0) {
      return fail_errno(errno, fmt::format("cannot rename '{}/{}'", directory_, known->second));
    }
    known->second = *name;
  }
  const auto disks = pool_.list(vm.id);
  if (!disks) return std::unexpected(disks.error());
  for (const pool::DirectoryEntry& disk : *disks) {
    if (auto refreshed = refresh_node(disk.id); !refreshed) {
      log().warn("{}", refreshed.error().message);
    }
  }
  return {};
}

std::string DiskSockets::place(const Listener& listener) const {
  const auto vm = vms_.find(listener.vm);
  return (vm == vms_.end() ? std::string("?") : vm->second) + "/" + listener.name;
}

Result<> DiskSockets::refresh_disk(const pool::Attributes& disk) {
  const auto vm = pool_.attributes(disk.parent);
  const auto name = pool_.name_of(disk.id);
  if (!vm) return std::unexpected(vm.error());
  if (!name) return std::unexpected(name.error());
  if (!vms_.contains(disk.parent)) return {};  // its directory could not be made
  // The name's former disk is gone from it, whose own refresh may come after this one.
  const auto former = std::ranges::find_if(listeners_, [&](const auto& other) {
    return other.first != disk.id && other.second.vm == disk.parent && other.second.name == *name;
  });
  if (former != listeners_.end()) remove_disk(former->first);
  auto& listener = listeners_[disk.id];
  if (!listener.socket) {
    listener.vm = disk.parent;
    listener.name = *name;
    auto listening = listen(listener, disk.id, disk, *vm);
    if (listening) return {};
    const std::string where = place(listener);
    listeners_.erase(disk.id);
    return fail(listening.error().kind, "disk '{}' has no socket: {}", where,
                listening.error().message);
  }
  if (listener.vm != disk.parent || listener.name != *name) {
    const std::string from = place(listener), to = vms_[disk.parent] + "/" + *name;
    if (::renameat(descriptor_.get(), from.c_str(), descriptor_.get(), to.c_str()) != 0) {
      return fail_errno(errno, fmt::format("cannot rename the socket '{}/{}'", directory_, from));
    }
    listener.vm = disk.parent;
    listener.name = *name;
  }
  const std::string path = place(listener);
  if (::fchownat(descriptor_.get(), path.c_str(), disk.uid, disk.gid, AT_SYMLINK_NOFOLLOW) != 0 ||
      ::fchmodat(descriptor_.get(), path.c_str(), socket_mode(disk, *vm), 0) != 0) {
    return fail_errno(errno, fmt::format("cannot give '{}/{}' its owner", directory_, path));
  }
  return {};
}

Result<> DiskSockets::listen(Listener& listener, pool::NodeId disk,
                             const pool::Attributes& attributes, const pool::Attributes& vm) {
  const UniqueFd directory = open_directory(descriptor_.get(), vms_[listener.vm].c_str());
  if (!directory) return fail_errno(errno, "its directory");
  const auto address = address_in(directory.get(), listener.name);
  if (!address) return std::unexpected(address.error());
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  // The file is made with the mode of the socket: at no moment may others connect.
  if (!socket || ::fchmod(socket.get(), 0) != 0 ||
      ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address) != 0) {
    return fail_errno(errno, "cannot make it");
  }
  const char* const name = listener.name.c_str();
  constexpr int backlog = 4;
  epoll_event event{.events = EPOLLIN, .data = {.u64 = disk}};
  if (::fchownat(directory.get(), name, attributes.uid, attributes.gid, AT_SYMLINK_NOFOLLOW) != 0 ||
      ::fchmodat(directory.get(), name, socket_mode(attributes, vm), 0) != 0 ||
      ::listen(socket.get(), backlog) != 0 ||
      ::epoll_ctl(events_.get(), EPOLL_CTL_ADD, socket.get(), &event) != 0) {
    const int error = errno;
    ::unlinkat(directory.get(), name, 0);
    return fail_errno(error, "cannot listen");
  }
  listener.socket = std::move(socket);
  return {};
}

void DiskSockets::remove_disk(pool::NodeId disk) {
  const auto found = listeners_.find(disk);
  if (found == listeners_.end()) return;
  ::unlinkat(descriptor_.get(), place(found->second).c_str(), 0);
  listeners_.erase(found);
}

void DiskSockets::remove_vm(pool::NodeId vm) {
  const auto found = vms_.find(vm);
  if (found == vms_.end()) return;
  ::unlinkat(descriptor_.get(), found->second.c_str(), AT_REMOVEDIR);
  vms_.erase(found);
}

// --- front ends ---

void DiskSockets::accept_all() {
  while (!stopping_) {
    epoll_event event{};
    const int count = ::epoll_wait(events_.get(), &event, 1, -1);
    if (count == 1 && event.data.u64 != 0) accept_one(event.data.u64);
    if (count == 1 && event.data.u64 == 0) {  // a connection has ended, or all shall
      std::uint64_t ignored = 0;
      [[maybe_unused]] const auto got = ::read(wakeup_.get(), &ignored, sizeof ignored);
    }
    reap();
  }
  for (Connection& connection : connections_) ::shutdown(connection.socket.get(), SHUT_RDWR);
  for (Connection& connection : connections_) connection.thread.join();
  connections_.clear();
}

void DiskSockets::reap() {
  for (auto i = connections_.begin(); i != connections_.end();) {
    if (!i->ended) {
      ++i;
      continue;
    }
    i->thread.join();
    i = connections_.erase(i);
  }
}

void DiskSockets::accept_one(pool::NodeId disk) {
  UniqueFd socket;
  {
    std::scoped_lock lock(mutex_);
    const auto listener = listeners_.find(disk);
    if (listener == listeners_.end()) return;
    socket = UniqueFd(::accept4(listener->second.socket.get(), nullptr, nullptr, SOCK_CLOEXEC));
  }
  if (!socket && errno != EAGAIN) {
    // It stays there to be accepted: not so often that it costs a processor.
    constexpr int pause = 100;  // milliseconds
    log().warn("cannot accept a front end: {}", std::strerror(errno));
    ::poll(nullptr, 0, pause);
  }
  if (!socket) return;
  UniqueFd own(::fcntl(socket.get(), F_DUPFD_CLOEXEC, 0));
  if (!own) return log().warn("cannot serve a front end: {}", std::strerror(errno));
  Connection& connection = connections_.emplace_back();
  connection.socket = std::move(own);
  try {
    connection.thread = std::thread([this, disk, &connection, given = std::move(socket)]() mutable {
      serve_one(disk, std::move(given));
      // Its end is seen by the front end at once, whenever the thread is joined.
      ::shutdown(connection.socket.get(), SHUT_RDWR);
      connection.ended = true;
      const std::uint64_t one = 1;
      [[maybe_unused]] const auto written = ::write(wakeup_.get(), &one, sizeof one);
    });
  } catch (const std::system_error& error) {  // no thread is left
    connections_.pop_back();
    log().warn("a front end is sent away: {}", error.what());
  }
}

void DiskSockets::serve_one(pool::NodeId disk, UniqueFd socket) {
  const std::string name = pool_.name_of(disk).value_or("?");
  if (auto attached = users_.attach(disk, name); !attached) {
    return log().warn("a front end is sent away: {}", attached.error().message);
  }
  const ScopeGuard detach([&] { users_.detach(disk); });
  // Held, so that the file system cannot be unmounted.
  const UniqueFd in_use(::open(mountpoint_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!in_use) return log().warn("a front end is sent away: {}", std::strerror(errno));
  auto store = pool::open_disk_store(pool_, disk);
  if (!store) return log().warn("a front end is sent away: {}", store.error().message);
  auto device = virtio::BlockDevice::create(*store, {.queues = queues, .serial = name});
  if (!device) return log().warn("a front end is sent away: {}", device.error().message);
  log().info("{}: a front end has come", (*device)->name());
  virtio::vhost_user::BackEnd back_end(**device, std::move(socket), {.sealed_memory_only = true});
  if (auto served = back_end.serve(); !served) {
    return log().warn("{}: its front end is sent away: {}", (*device)->name(),
                      served.error().message);
  }
  log().info("{}: the front end has gone", (*device)->name());
}

}  // namespace tidepool::elasticfs
