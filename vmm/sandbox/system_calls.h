// Which system calls, and which capabilities, a thread needs for its work. A table, and
// nothing else.
#pragma once

#include <cstdint>
#include <span>

namespace tidepool::vmm {

enum class ThreadKind {
  process,   // whatever has no list of its own: opens what the machine is made of
  vcpu,      // runs the guest, starts and resets devices
  device,    // serves queues on an io_uring
  back_end,  // watches a vhost-user back end, finds the next one
  control,   // answers on the control socket; writes saved machines
  terminal,  // what is typed, and signals
};

struct AllowedCall {
  int number = -1;
  // The call is allowed if this argument, masked, is `value`. -1: whatever it is given.
  int argument = -1;
  std::uint64_t mask = 0, value = 0;
};

std::span<const AllowedCall> common_calls();  // of every kind
std::span<const AllowedCall> calls_of(ThreadKind kind);
std::uint64_t capabilities_of(ThreadKind kind);  // a bit for each number

}  // namespace tidepool::vmm
