// A vCPU and the thread that runs it.
//
// Stopping is two-sided: stop() asks and waits until the thread has left the guest and
// finished the exit it left with. Then registers and memory are as the guest left
// them, and nothing of the vCPU runs until go().
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "base/result.h"
#include "virtio/queue_figures.h"
#include "vmm/devices/bus.h"
#include "vmm/kvm/kvm_vcpu.h"
#include "vmm/machine/machine_figures.h"

namespace tidepool::vmm {

// What a vCPU's exits lead to; outlives its thread.
struct VcpuWorld {
  Bus& ports;
  Bus& memory;
  std::function<void()> on_reset;         // the processor gave up (triple fault)
  std::function<void(Error)> on_failure;  // it cannot go on
  bool confined = false;                  // its threads, before they run the guest
};

class VcpuThread {
 public:
  // Stopped until go().
  VcpuThread(KvmVcpu vcpu, VcpuWorld& world);
  ~VcpuThread();
  VcpuThread(const VcpuThread&) = delete;
  VcpuThread& operator=(const VcpuThread&) = delete;

  void go();
  void ask_to_stop();
  void wait_until_stopped();
  KvmVcpu& vcpu() { return vcpu_; }  // of a stopped one
  ExitFigures exits() const;

 private:
  void kick();
  enum class State { stopped, running, ended };
  void run();
  void run_guest();
  bool handle_exit();
  void handle_port(kvm_run& shared);
  std::unexpected<Error> stuck(const kvm_run& shared);

  KvmVcpu vcpu_;
  VcpuWorld& world_;
  std::atomic<State> wanted_{State::stopped};
  struct {
    virtio::Count port, memory, other, interrupted;
  } exits_;
  std::mutex mutex_;  // guards is_; wanted_ is changed under it
  std::condition_variable changed_;
  State is_ = State::stopped;
  std::thread thread_;
};

}  // namespace tidepool::vmm
