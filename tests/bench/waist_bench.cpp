// waist_bench POOL-FILE RAW-FILE: a disk of a pool in process (no FUSE) against a
// plain file, through the same waist (blockdev/block_store.h).
//
// Makes a pool with one disk in POOL-FILE and a preallocated RAW-FILE, writes both
// whole, then runs each load alternately on both. Prints JSON, one object per
// load: medians of --pairs runs and their ratio (1.0 = as fast as the file).
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "blockdev/stores/file_store.h"
#include "blockdev/sync_channel.h"
#include "fs/pool/pool.h"
#include "fs/pool/pool_channel.h"
#include "tests/bench/load.h"
#include "tests/lib/judge.h"

namespace {

using namespace tidepool;
using bench::Load;
using blockdev::IoOp;

template <class T>
T must(Result<T> result) {
  if (!result) judge::die("%s", result.error().message.c_str());
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

void make_file(const std::string& path, std::uint64_t size, bool preallocated) {
  const judge::Fd file(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file.valid()) judge::die("cannot create %s: %s", path.c_str(), std::strerror(errno));
  const auto length = static_cast<off_t>(size);
  if ((preallocated ? fallocate(file.get(), 0, 0, length) : ftruncate(file.get(), length)) < 0)
    judge::die("cannot size %s: %s", path.c_str(), std::strerror(errno));
}

void write_whole(blockdev::BlockStore& store, std::uint64_t size) {
  auto channel = must(blockdev::SyncChannel::open(store));
  blockdev::AlignedBuffer buffer(1 << 20);
  judge::Random random(1);
  judge::fill_random(random, reinterpret_cast<unsigned char*>(buffer.data()), buffer.size());
  for (std::uint64_t offset = 0; offset < size; offset += buffer.size())
    must(channel->write(offset, buffer.span()));
  must(channel->flush());
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  const judge::Options options(
      argc, argv, {"size", "pairs", "milliseconds", "chunk"}, {},
      "usage: waist_bench POOL-FILE RAW-FILE [--size BYTES] [--pairs N] [--milliseconds N]\n"
      "       [--chunk BYTES]");
  if (options.words.size() != 2) options.usage_error("two files that may be overwritten");
  const std::uint64_t size = options.number("size", 2u << 30) >> 20 << 20;
  const auto pairs = options.number("pairs", 5);
  const std::chrono::milliseconds time(options.number("milliseconds", 2000));

  make_file(options.words[0], size + size / 8 + (256u << 20), false);
  make_file(options.words[1], size, true);
  auto raw = must(blockdev::FileStore::open(options.words[1], {}));
  std::shared_ptr<blockdev::FileStore> file = must(blockdev::FileStore::open(options.words[0], {}));
  pool::CreateOptions create;
  create.chunk_bytes = static_cast<std::uint32_t>(options.number("chunk", create.chunk_bytes));
  must(pool::Pool::create(*file, create, true));
  auto pool = must(pool::Pool::open(file, {}));
  const auto vm = must(pool->make_vm("vm", 0700, 0, 0));
  const auto node = must(pool->make_disk(vm.id, "disk", 0600, 0, 0));
  pool::Disk* held = must(pool->hold(node.id));
  must(pool->set_size(*held, size));
  auto disk = must(pool::open_disk_store(*pool, node.id));
  write_whole(*raw, size);
  write_whole(*disk, size);

  const std::vector<Load> loads = {
      {"sequential read 1M d8", IoOp::read, false, 1 << 20, 8},
      {"sequential write 1M d8", IoOp::write, false, 1 << 20, 8},
      {"random read 4k d32", IoOp::read, true, 4096, 32},
      {"random write 4k d32", IoOp::write, true, 4096, 32},
      {"random read 4k d1", IoOp::read, true, 4096, 1},
      {"random write 4k d1", IoOp::write, true, 4096, 1},
  };
  for (const Load& load : loads) {
    std::vector<double> of_raw, of_pool, ratios;
    for (std::uint64_t pair = 0; pair < pairs; pair++) {
      // Who goes first changes with each pair.
      const auto one = [&](bool first) {
        const bool is_pool = first == (pair % 2 == 0);
        blockdev::BlockStore& store = is_pool ? *disk : static_cast<blockdev::BlockStore&>(*raw);
        const auto result = must(bench::run_load(store, load, size, time, pair + 1));
        (is_pool ? of_pool : of_raw).push_back(result.requests_per_second);
      };
      one(true);
      one(false);
      ratios.push_back(of_pool.back() / of_raw.back());
    }
    const nlohmann::json line = {{"name", "waist: " + load.name},
                                 {"ours", median(of_pool) * load.block},
                                 {"peer", median(of_raw) * load.block},
                                 {"ratio", median(ratios)},
                                 {"unit", "B/s"}};
    fmt::print("{}\n", line.dump());
    std::fflush(stdout);
  }
  disk.reset();
  pool->release(held);
}
