#include "vmm/sandbox/system_calls.h"

#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <vector>

#include "vmm/kvm/kvm_table.h"

namespace tidepool::vmm {

namespace {

constexpr AllowedCall any(long number) { return {static_cast<int>(number)}; }
constexpr AllowedCall with(long number, int argument, std::uint64_t value) {
  return {static_cast<int>(number), argument, UINT64_MAX, value};
}
// The kernel looks at 32 bits of it.
constexpr AllowedCall ioctl_of(std::uint64_t request) {
  return {static_cast<int>(SYS_ioctl), 1, UINT32_MAX, request};
}
constexpr AllowedCall not_executable(long number) {
  return {static_cast<int>(number), 2, PROT_EXEC, 0};
}
constexpr std::uint64_t bit(unsigned number) { return std::uint64_t{1} << number; }

// Memory, locks, time, the thread's end; output and log; eventfds.
constexpr AllowedCall common[] = {
    any(SYS_read),
    any(SYS_write),
    any(SYS_readv),
    any(SYS_writev),
    any(SYS_close),
    any(SYS_fstat),
    any(SYS_futex),
    not_executable(SYS_mmap),
    not_executable(SYS_mprotect),
    any(SYS_munmap),
    any(SYS_mremap),
    any(SYS_madvise),
    any(SYS_brk),
    any(SYS_sched_yield),
    any(SYS_sched_getaffinity),
    any(SYS_clock_gettime),
    any(SYS_clock_nanosleep),
    any(SYS_nanosleep),
    any(SYS_gettimeofday),
    any(SYS_restart_syscall),
    any(SYS_getrandom),
    any(SYS_getpid),
    any(SYS_gettid),
    any(SYS_tgkill),
    any(SYS_rt_sigaction),
    any(SYS_rt_sigprocmask),
    any(SYS_rt_sigreturn),
    any(SYS_sigaltstack),
    any(SYS_set_robust_list),
    any(SYS_rseq),
    with(SYS_prctl, 0, PR_GET_NAME),  // for the message that a forbidden call leaves
    any(SYS_exit),
    any(SYS_exit_group),
};

constexpr AllowedCall vcpu[] = {
    ioctl_of(KVM_RUN),
    ioctl_of(KVM_GET_REGS),
    ioctl_of(KVM_IOEVENTFD),
    ioctl_of(KVM_IRQFD),
    ioctl_of(KVM_IRQ_LINE),
    ioctl_of(kvm_set_routing),
    ioctl_of(TUNSETOFFLOAD),
    // What a vhost-user back end is told when the guest starts or resets it.
    any(SYS_sendmsg),
    any(SYS_recvmsg),
    any(SYS_poll),
    // Who is attached to the console, which shows what the serial port does.
    any(SYS_sendto),
    any(SYS_shutdown),
};

constexpr AllowedCall device[] = {
    any(SYS_io_uring_enter),
    any(SYS_preadv2),
    any(SYS_pread64),
    any(SYS_pwrite64),
    any(SYS_preadv),
    any(SYS_pwritev),
    any(SYS_pwritev2),
    any(SYS_lseek),
    any(SYS_fallocate),
    any(SYS_ftruncate),
    any(SYS_fsync),
    any(SYS_fdatasync),
    any(SYS_sync_file_range),
    ioctl_of(BLKDISCARD),
    ioctl_of(BLKZEROOUT),
    // A connection to a server of disks; others open it.
    any(SYS_poll),
    any(SYS_sendto),
    any(SYS_recvfrom),
    any(SYS_sendmsg),
    any(SYS_recvmsg),
    any(SYS_shutdown),
    any(SYS_getsockopt),
};

constexpr AllowedCall back_end[] = {
    any(SYS_poll),    with(SYS_socket, 0, AF_UNIX), any(SYS_connect),
    any(SYS_sendmsg), any(SYS_setsockopt),          any(SYS_recvmsg),
};

constexpr AllowedCall control[] = {
    any(SYS_accept),
    any(SYS_accept4),
    any(SYS_poll),
    any(SYS_select),
    any(SYS_pselect6),
    any(SYS_recvfrom),
    any(SYS_recvmsg),
    any(SYS_sendto),
    any(SYS_sendmsg),
    any(SYS_setsockopt),
    any(SYS_getsockopt),
    any(SYS_getsockname),
    any(SYS_getpeername),
    any(SYS_shutdown),
    any(SYS_fcntl),
    {static_cast<int>(SYS_clone), 0, CLONE_THREAD, CLONE_THREAD},
    // A saved machine, and the disks' flush before it.
    any(SYS_openat),
    any(SYS_newfstatat),
    any(SYS_lseek),
    any(SYS_pread64),
    any(SYS_pwrite64),
    any(SYS_ftruncate),
    any(SYS_fallocate),
    any(SYS_fsync),
    any(SYS_fdatasync),
    any(SYS_rename),
    any(SYS_unlink),
    any(SYS_eventfd2),
    any(SYS_io_uring_setup),
    any(SYS_io_uring_enter),
    any(SYS_io_uring_register),
    {static_cast<int>(SYS_ioctl), 1, 0xff00, KVMIO << 8},  // all of KVM's
};

constexpr AllowedCall terminal[] = {
    any(SYS_poll), any(SYS_rt_sigtimedwait),
    any(SYS_sendto),  // to a console in another process
};

// What the others have, and what opening disks, connections and memory takes. Programs and
// processes are not among it: clone() makes threads only.
constexpr AllowedCall process[] = {
    any(SYS_mmap),
    any(SYS_mprotect),
    any(SYS_mlock),
    any(SYS_munlock),
    any(SYS_memfd_create),
    any(SYS_eventfd2),
    any(SYS_ioctl),
    any(SYS_prctl),
    any(SYS_arch_prctl),
    any(SYS_prlimit64),
    any(SYS_getrlimit),
    any(SYS_seccomp),
    any(SYS_capget),
    any(SYS_capset),
    any(SYS_membarrier),
    any(SYS_rt_sigpending),
    any(SYS_open),
    any(SYS_openat),
    any(SYS_stat),
    any(SYS_lstat),
    any(SYS_newfstatat),
    any(SYS_statx),
    any(SYS_statfs),
    any(SYS_fstatfs),
    any(SYS_access),
    any(SYS_faccessat),
    any(SYS_faccessat2),
    any(SYS_readlink),
    any(SYS_readlinkat),
    any(SYS_getcwd),
    any(SYS_getdents64),
    any(SYS_mkdir),
    any(SYS_mkdirat),
    any(SYS_unlinkat),
    any(SYS_renameat),
    any(SYS_renameat2),
    any(SYS_link),
    any(SYS_linkat),
    any(SYS_fchmod),
    any(SYS_fchmodat),
    any(SYS_chmod),
    any(SYS_umask),
    any(SYS_flock),
    any(SYS_fgetxattr),
    any(SYS_fadvise64),
    any(SYS_copy_file_range),
    any(SYS_sendfile),
    any(SYS_dup),
    any(SYS_dup2),
    any(SYS_dup3),
    any(SYS_pipe2),
    any(SYS_ppoll),
    any(SYS_epoll_create1),
    any(SYS_epoll_ctl),
    any(SYS_epoll_wait),
    any(SYS_epoll_pwait),
    any(SYS_timerfd_create),
    any(SYS_timerfd_settime),
    any(SYS_timerfd_gettime),
    any(SYS_clock_getres),
    any(SYS_time),
    any(SYS_socket),
    any(SYS_socketpair),
    any(SYS_bind),
    any(SYS_listen),
    any(SYS_connect),
    any(SYS_sendmmsg),
    any(SYS_recvmmsg),
    any(SYS_setsockopt),
    any(SYS_getuid),
    any(SYS_geteuid),
    any(SYS_getgid),
    any(SYS_getegid),
    any(SYS_getppid),
    any(SYS_uname),
    any(SYS_sysinfo),
    any(SYS_set_tid_address),
};

}  // namespace

std::span<const AllowedCall> common_calls() { return common; }

std::span<const AllowedCall> calls_of(ThreadKind kind) {
  switch (kind) {
    case ThreadKind::vcpu:
      return vcpu;
    case ThreadKind::device:
      return device;
    case ThreadKind::back_end:
      return back_end;
    case ThreadKind::control:
      return control;
    case ThreadKind::terminal:
      return terminal;
    case ThreadKind::process:
      break;
  }
  static const std::vector<AllowedCall> all = [] {
    std::vector<AllowedCall> calls(std::begin(process), std::end(process));
    for (const auto& kind_of :
         {std::span<const AllowedCall>(vcpu), {device}, {back_end}, {control}, {terminal}}) {
      for (const AllowedCall& call : kind_of) calls.push_back(call);
    }
    return calls;
  }();
  return all;
}

std::uint64_t capabilities_of(ThreadKind kind) {
  switch (kind) {
    case ThreadKind::process:  // files of others, a new tap interface, servers' low ports
      return bit(CAP_DAC_OVERRIDE) | bit(CAP_DAC_READ_SEARCH) | bit(CAP_NET_ADMIN) |
             bit(CAP_NET_BIND_SERVICE);
    case ThreadKind::control:  // a saved machine is written where its owner wants it
      return bit(CAP_DAC_OVERRIDE);
    default:
      return 0;
  }
}

}  // namespace tidepool::vmm
