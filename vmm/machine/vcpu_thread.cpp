#include "vmm/machine/vcpu_thread.h"

#include <pthread.h>
#include <signal.h>

#include <cerrno>
#include <mutex>

#include "base/log.h"
#include "base/quiet_thread.h"
#include "vmm/sandbox/confinement.h"

namespace tidepool::vmm {

namespace {

int kick_signal() { return SIGRTMIN; }

// Its coming brings a vCPU out of the guest.
void on_kick(int) {}

void install_kick() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action {};
    action.sa_handler = on_kick;
    ::sigaction(kick_signal(), &action, nullptr);
  });
}

}  // namespace

VcpuThread::VcpuThread(KvmVcpu vcpu, VcpuWorld& world) : vcpu_(std::move(vcpu)), world_(world) {
  install_kick();
  thread_ = start_quiet_thread(
      fmt::format("vcpu {}", vcpu_.id()), [this] { run(); }, kick_signal());
}

VcpuThread::~VcpuThread() {
  {
    const std::lock_guard lock(mutex_);
    wanted_ = State::ended;
  }
  changed_.notify_all();
  kick();
  thread_.join();
}

void VcpuThread::go() {
  {
    const std::lock_guard lock(mutex_);
    wanted_ = State::running;
  }
  changed_.notify_all();
}

void VcpuThread::ask_to_stop() {
  {
    const std::lock_guard lock(mutex_);
    if (wanted_ == State::running) wanted_ = State::stopped;
  }
  kick();
}

// The request stops a vCPU that is only about to enter the guest. That thread takes it back
// before it looks at what is wanted, never after.
void VcpuThread::kick() {
  vcpu_.request_exit(true);
  ::pthread_kill(thread_.native_handle(), kick_signal());
}

void VcpuThread::wait_until_stopped() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return is_ != State::running; });
}

void VcpuThread::run() {
  if (world_.confined) {
    if (auto confined = confine_thread(ThreadKind::vcpu); !confined)
      world_.on_failure(confined.error());
  }
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return wanted_ != State::stopped; });
    if (wanted_ == State::ended) break;
    is_ = State::running;
    lock.unlock();
    run_guest();
    lock.lock();
    is_ = State::stopped;
    changed_.notify_all();
  }
  is_ = State::ended;
  changed_.notify_all();
}

void VcpuThread::run_guest() {
  vcpu_.request_exit(false);
  while (wanted_ == State::running) {
    const int error = vcpu_.run();
    if (error == EINTR || error == EAGAIN) {
      exits_.interrupted.add(1);
      vcpu_.request_exit(false);
      continue;
    }
    if (error != 0) {
      world_.on_failure(fail_errno(error, fmt::format("vCPU {} cannot run", vcpu_.id())).error());
      break;
    }
    if (!handle_exit()) break;
  }
  // The kernel finishes an exit (a read's value reaches its register) at the next entry.
  vcpu_.request_exit(true);
  vcpu_.run();
  vcpu_.request_exit(false);
}

void VcpuThread::handle_port(kvm_run& shared) {
  const std::span<std::byte> data = vcpu_.port_data();
  const std::size_t size = shared.io.size;
  for (std::size_t at = 0; at + size <= data.size(); at += size) {
    if (shared.io.direction == KVM_EXIT_IO_IN) {
      world_.ports.read(shared.io.port, data.subspan(at, size));
    } else {
      world_.ports.write(shared.io.port, data.subspan(at, size));
    }
  }
}

bool VcpuThread::handle_exit() {
  kvm_run& shared = vcpu_.shared();
  switch (shared.exit_reason) {
    case KVM_EXIT_IO:
      exits_.port.add(1);
      handle_port(shared);
      return true;
    case KVM_EXIT_MMIO: {
      exits_.memory.add(1);
      const std::span data(reinterpret_cast<std::byte*>(shared.mmio.data),
                           std::min<std::size_t>(shared.mmio.len, sizeof shared.mmio.data));
      if (shared.mmio.is_write != 0) {
        world_.memory.write(shared.mmio.phys_addr, data);
      } else {
        world_.memory.read(shared.mmio.phys_addr, data);
      }
      return true;
    }
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
      exits_.other.add(1);
      return true;
    case KVM_EXIT_SHUTDOWN:
      // The guest itself has no way to say why.
      log().warn("vCPU {}: a triple fault resets the guest", vcpu_.id());
      world_.on_reset();
      return false;
    default:
      world_.on_failure(stuck(shared).error());
      return false;
  }
}

ExitFigures VcpuThread::exits() const {
  return {exits_.port, exits_.memory, exits_.other, exits_.interrupted};
}

std::unexpected<Error> VcpuThread::stuck(const kvm_run& shared) {
  const auto registers = vcpu_.registers();
  const std::uint64_t at = registers ? registers->rip : 0;
  if (shared.exit_reason == KVM_EXIT_INTERNAL_ERROR) {
    return fail(ErrorKind::io, "vCPU {} stopped at {:#x}: KVM cannot go on (internal error {})",
                vcpu_.id(), at, shared.internal.suberror);
  }
  if (shared.exit_reason == KVM_EXIT_FAIL_ENTRY) {
    return fail(ErrorKind::io, "vCPU {} cannot be entered at {:#x} (hardware reason {:#x})",
                vcpu_.id(), at, shared.fail_entry.hardware_entry_failure_reason);
  }
  return fail(ErrorKind::io, "vCPU {} stopped at {:#x} for an unknown reason ({})", vcpu_.id(), at,
              shared.exit_reason);
}

}  // namespace tidepool::vmm
