// Programs that carry requests of a MiB in fresh memory: glibc's allocator maps each anew and
// hands it back, so that the kernel clears and maps the same pages with every request.
#pragma once

#include <malloc.h>

namespace tidepool {

// Freed memory is kept for what comes next, up to some hundred MiB; larger single pieces than
// any request has are still handed back. Before the first thread is made (mallopt(3)).
inline void keep_freed_memory() {
  ::mallopt(M_MMAP_THRESHOLD, 32 << 20);  // bytes; the most that glibc takes
  ::mallopt(M_TRIM_THRESHOLD, 256 << 20);
}

}  // namespace tidepool
