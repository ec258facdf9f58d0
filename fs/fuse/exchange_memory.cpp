#include <sys/mman.h>

#include <cerrno>
#include <cstdlib>

#include "base/log.h"
#include "base/size_text.h"
#include "fs/fuse/transport.h"

namespace tidepool::elasticfs {

thread_local Exchange* Exchange::current = nullptr;

ExchangeMemory::ExchangeMemory(unsigned count) : size_(count * (header_page + payload_limit)) {
  void* const memory = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    log().critical("no {} of address space for requests: errno {}", format_size(size_), errno);
    std::abort();
  }
  base_ = static_cast<std::byte*>(memory);
  // Fewer page references to take for each large direct transfer.
  ::madvise(memory, size_, MADV_HUGEPAGE);
}

ExchangeMemory::~ExchangeMemory() { ::munmap(base_, size_); }

}  // namespace tidepool::elasticfs
