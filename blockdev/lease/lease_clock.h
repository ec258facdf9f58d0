// The clock of leases: it goes on while the machine sleeps, unlike the steady clock.
#pragma once

#include <ctime>

#include "blockdev/lease/lease_state.h"

namespace tidepool::blockdev::lease {

inline Time boot_time() {
  timespec time{};
  ::clock_gettime(CLOCK_BOOTTIME, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

}  // namespace tidepool::blockdev::lease
