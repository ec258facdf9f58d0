// Power loss at any point of a chain's life: what a flush acknowledged is there.
//
// Usage: chain-crash [--points N] [--seed S] [--sabotage data-barrier|journal-barrier|reuse]
//                    [--expect-red]
//
// Each point runs a random workload on a chain of two layers until the store
// under the top layer loses its power at a random change, makes an image that the
// loss may have left (changes dropped, reordered, torn at 512 bytes), opens the
// chain on it and reads every block: it must show what the last flush covered or
// something written to it since, and every block must pass its checksum. Then the
// chain is written, flushed and opened once more.
//
// --sabotage takes one protection away, --expect-red then asks for failures.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>

#include "base/log.h"
#include "tests/crash/crash_arguments.h"
#include "tests/lib/chain_disk.h"

namespace tidepool::test {

using namespace blockdev;
using namespace blockdev::chain;

namespace {

constexpr std::uint64_t blocks = 96, disk_size = blocks * block_bytes;

// A block's content is its number and a version; version 0 is zeros.
void fill(std::span<std::byte> block, std::uint64_t number, std::uint64_t version) {
  std::mt19937_64 random(number << 32 | version);
  for (std::size_t i = 0; i < block.size(); i += 8) {
    const std::uint64_t word = version == 0 ? 0 : random();
    std::memcpy(&block[i], &word, sizeof word);
  }
}

struct History {
  std::vector<std::uint64_t> versions{0};  // the last flushed one, then all since
};

struct Point {
  std::uint64_t seed = 0;
  Sabotage sabotage;
  bool reuse_at_once = false;
  std::string trouble;

  bool fails(const std::string& what) {
    trouble = what;
    return false;
  }
  bool run();
};

bool Point::run() {
  std::mt19937_64 random(seed);
  std::array<History, blocks> histories;
  std::uint64_t version = 0;
  std::vector<std::byte> data(8 * block_bytes);
  const ChainOptions options{.most_freed = ~std::uint64_t{0}};

  const auto write = [&](SyncChannel& channel) {
    const std::uint64_t block = random() % blocks;
    const std::uint64_t count = std::min<std::uint64_t>(1 + random() % 8, blocks - block);
    const bool clear = random() % 6 == 0;
    ++version;
    for (std::uint64_t i = 0; i < count; ++i) {
      fill(std::span(data).subspan(i * block_bytes, block_bytes), block + i, clear ? 0 : version);
      histories[block + i].versions.push_back(clear ? 0 : version);
    }
    if (clear) return channel.discard(block * block_bytes, count * block_bytes);
    return channel.write(block * block_bytes, std::span(data).first(count * block_bytes));
  };
  const auto flushed = [&] {
    for (History& history : histories)
      history.versions.erase(history.versions.begin(), history.versions.end() - 1);
  };

  ChainDisk disk;
  if (!disk.add_layer(disk_size)) return fails("no first layer");
  {
    auto opened = disk.open(options);
    auto channel = SyncChannel::open(**opened);
    for (int i = 0; i < 20; ++i) {
      if (!write(**channel)) return fails("the lower layer refuses a write");
    }
    if (!(*opened)->top().seal((*opened)->lock(), "lower")) return fails("not sealed");
    flushed();
  }
  if (!disk.add_layer(disk_size)) return fails("no second layer");
  SimulatedStore& store = *disk.stores.back();
  store.set_crash_at(store.counters().changes() + 1 + random() % 300);
  {
    auto opened = disk.open(options, sabotage, reuse_at_once);
    if (!opened) return fails(opened.error().message);
    auto channel = SyncChannel::open(**opened);
    for (int i = 0; i < 600 && !store.crashed(); ++i) {
      if (random() % 7 == 0) {
        if ((*channel)->flush()) flushed();
      } else if (random() % 120 == 0) {
        (void)(*opened)->top().seal((*opened)->lock(), "sealed");  // a checkpoint ends this life
        break;
      } else {
        (void)write(**channel);
      }
    }
  }
  disk.stores.back() = SimulatedStore::open(store.crash(seed));

  const auto check = [&](Chain& chain) -> bool {
    auto channel = SyncChannel::open(chain);
    std::vector<std::byte> read(block_bytes), wanted(block_bytes);
    for (std::uint64_t block = 0; block < blocks; ++block) {
      if (auto r = (*channel)->read(block * block_bytes, read); !r) return fails(r.error().message);
      bool known = false;
      auto& versions = histories[block].versions;
      for (std::uint64_t candidate : versions) {
        fill(wanted, block, candidate);
        known = read == wanted;
        if (!known) continue;
        versions = {candidate};
        break;
      }
      if (!known) return fails("block " + std::to_string(block) + " lost what was flushed");
    }
    return true;
  };
  auto read_only = disk.open({.read_only = true});
  if (!read_only) return fails(read_only.error().message);
  if (!check(**read_only)) return false;
  if ((*read_only)->top().header().state == LayerState::sealed) return true;
  {
    auto opened = disk.open(options);
    if (!opened) return fails(opened.error().message);
    auto channel = SyncChannel::open(**opened);
    for (int i = 0; i < 30; ++i) {
      if (!write(**channel)) return fails("a write after the crash fails");
    }
    if (!(*channel)->flush()) return fails("a flush after the crash fails");
    flushed();
  }
  auto last = disk.open(options);
  if (!last) return fails(last.error().message);
  return check(**last);
}

int run(int argc, char** argv) {
  const auto arguments = CrashArguments::parse(argc, argv, "reuse");
  if (!arguments) return 2;
  const auto& [points, seed, sabotage, expect_red, reuse_at_once] = *arguments;
  log().set_level(spdlog::level::off);  // that the power went is known here
  std::uint64_t failed = 0;
  for (std::uint64_t i = 0; i < points; ++i) {
    Point point{seed + i, sabotage, reuse_at_once, {}};
    if (point.run()) continue;
    ++failed;
    std::printf("seed %llu: %s\n", static_cast<unsigned long long>(seed + i),
                point.trouble.c_str());
    if (failed >= (expect_red ? 1 : 5)) break;
  }
  std::printf("%llu crash points from seed %llu, %llu failed\n",
              static_cast<unsigned long long>(points), static_cast<unsigned long long>(seed),
              static_cast<unsigned long long>(failed));
  return (failed > 0) == expect_red ? 0 : 1;
}

}  // namespace

}  // namespace tidepool::test

int main(int argc, char** argv) { return tidepool::test::run(argc, argv); }
