// A pool with all of its parts in use, to be damaged: two superblocks, a checkpoint of
// several pages, and a journal with batches that are in no checkpoint, as after a power
// loss; and what a pool's state is, to be compared. What fails here ends the program.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fs/pool/pool.h"
#include "fs/pool/superblock.h"
#include "tests/lib/pool_driver.h"
#include "tests/lib/simulated_store.h"

namespace tidepool::test {

inline constexpr std::uint64_t pool_bytes = 48 * 1024 * 1024;
inline const std::string damaged_name = "damaged-image";

[[noreturn]] void die(const std::string& text);

template <class T>
T must(tidepool::Result<T> result, const char* what) {
  if (!result) die(std::string(what) + ": " + result.error().message);
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

using Contents = std::map<pool::NodeId, std::vector<std::byte>>;  // of each disk

struct Subject {
  SparseImage image{0};
  pool::Superblock superblock;
  std::uint64_t journal_end = 0;  // bytes of the journal in use
  std::string state;
  Contents contents;
};

Subject make_subject(std::uint64_t seed);

std::shared_ptr<SimulatedStore> store_on(const SparseImage& image);
Result<std::unique_ptr<pool::Pool>> open(std::shared_ptr<SimulatedStore> store, bool read_only);

// Names, attributes, maps and figures, as text.
std::string state_of(pool::Pool& pool);
Contents contents_of(pool::Pool& pool);

}  // namespace tidepool::test
