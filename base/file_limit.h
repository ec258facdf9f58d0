// Long chains need a descriptor for each layer: more than shells allow by default.
#pragma once

#include <sys/resource.h>

namespace tidepool {

// As many open files as the hard limit allows; a failure leaves the limit as it is.
inline void raise_file_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace tidepool
