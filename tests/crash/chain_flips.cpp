// Damage to the layers of a chain: an error or the right bytes, never others.
//
// Usage: chain-flips [--flips N] [--seed S] [--no-verify --expect-red]
//
// A chain of two sealed layers and an active one, whose journal follows an index,
// is damaged in one place at a time: single bits, two blocks exchanged, a block
// lost or replaced by an older one of the same place, the end cut off. Then every
// block of the disk is read. Whatever is refused must name the layer's file, and of a
// block of the disk its offset there, too. --no-verify takes the check of the hashes
// away; --expect-red then asks for wrong bytes.
#include <spdlog/sinks/ostream_sink.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <sstream>
#include <string>
#include <string_view>

#include "base/log.h"
#include "tests/lib/chain_disk.h"

namespace tidepool::test {

using namespace blockdev;
using namespace blockdev::chain;

namespace {

constexpr std::uint64_t blocks = 160, disk_size = blocks * block_bytes;

struct Subject {
  std::vector<SparseImage> images;                       // one per layer
  std::vector<SparseImage> older;                        // the same, some writes before
  std::vector<std::vector<std::uint64_t>> used;          // offsets of their blocks
  std::vector<std::byte> content{std::vector<std::byte>(disk_size)};
};

[[noreturn]] void die(const std::string& text) {
  std::printf("FAILED: %s\n", text.c_str());
  std::exit(1);
}

void must(const Result<>& done) {
  if (!done) die(done.error().message);
}

Subject make_subject(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Subject subject;
  ChainDisk disk;
  for (int layer = 0; layer < 3; ++layer) {
    must(disk.add_layer(disk_size));
    auto chain = disk.open();
    if (!chain) die(chain.error().message);
    auto channel = SyncChannel::open(**chain);
    for (int step = 0; step < 120; ++step) {
      const std::uint64_t offset = random() % (disk_size / 512) * 512;
      const std::uint64_t length =
          std::min((1 + random() % 30) * 512, disk_size - offset);
      const auto range = std::span(subject.content).subspan(offset, length);
      const bool clear = random() % 6 == 0;
      for (auto& byte : range) byte = clear ? std::byte{0} : static_cast<std::byte>(random());
      must(clear ? (*channel)->discard(offset, length) : (*channel)->write(offset, range));
      if (step % 20 == 19) must((*channel)->flush());
      if (step == 79) subject.older.push_back(disk.stores.back()->newest());
    }
    if (layer < 2) must((*chain)->top().seal((*chain)->lock(), "sealed"));
  }
  for (const auto& store : disk.stores) {
    const SparseImage& image = subject.images.emplace_back(store->newest());
    auto& used = subject.used.emplace_back();
    for (std::uint64_t at = 0; at < image.size(); at += block_bytes)
      if (image.is_allocated(at)) used.push_back(at);
  }
  return subject;
}

struct Damage {
  std::string what;
  std::uint64_t at = 0;  // byte of the file
  bool one_place = true;
};

// Damages one layer; says how.
Damage damage(const Subject& subject, std::size_t layer, SparseImage& image,
                   std::mt19937_64& random) {
  const auto& used = subject.used[layer];
  const std::uint64_t at = used[random() % used.size()];
  std::array<std::byte, block_bytes> one, two;
  image.read(at, one);
  const std::string where = " in layer " + std::to_string(layer) + " at " + std::to_string(at);
  switch (random() % 20) {
    case 0: {
      const std::uint64_t other = used[random() % used.size()];
      image.read(other, two);
      image.write(at, two);
      image.write(other, one);
      return {"exchanged with " + std::to_string(other) + where, at, false};
    }
    case 1:
      image.clear(at, block_bytes);
      return {"lost" + where, at};
    case 2:
      subject.older[layer].read(at, two);
      image.write(at, two);
      return {"stale" + where, at};
    case 3: {
      SparseImage shorter(std::max<std::uint64_t>(at, 512));
      for (std::uint64_t from : used) {
        if (from + block_bytes > shorter.size()) break;
        image.read(from, two);
        shorter.write(from, two);
      }
      image = std::move(shorter);
      return {"cut off" + where, at, false};
    }
    default: {
      const std::uint64_t bit = random() % (block_bytes * 8);
      one[bit / 8] ^= std::byte{1} << (bit % 8);
      image.write(at, one);
      return {"bit " + std::to_string(bit) + where, at};
    }
  }
}

struct Count {
  std::uint64_t refused = 0, errors = 0, unharmed = 0, wrong = 0, unnamed = 0;
};

std::string name_of(std::size_t layer) { return "layer-" + std::to_string(layer); }

// What is logged while a block is read says why it cannot be.
std::ostringstream said;

void expect_words(std::uint64_t seed, const std::string& what, const std::string& text,
                  const std::string& words, Count& count) {
  if (text.find(words) != std::string::npos) return;
  std::printf("seed %llu, %s: not told where, but: %s\n", static_cast<unsigned long long>(seed),
              what.c_str(), text.c_str());
  ++count.unnamed;
}

void judge(const Subject& subject, std::uint64_t seed, bool verify, Count& count) {
  std::mt19937_64 random(seed);
  const std::size_t layer = random() % subject.images.size();
  SparseImage image = subject.images[layer];
  const auto [what, at, one_place] = damage(subject, layer, image, random);
  ChainDisk disk;
  for (std::size_t i = 0; i < subject.images.size(); ++i) {
    disk.stores.push_back(
        SimulatedStore::open(i == layer ? image : subject.images[i], {.name = name_of(i)}));
  }
  auto chain = disk.open({.read_only = true, .verify = verify});
  if (!chain) {
    ++count.refused;
    return expect_words(seed, what, chain.error().message, "'" + name_of(layer) + "'", count);
  }
  auto channel = SyncChannel::open(**chain);
  std::vector<std::byte> read(block_bytes);
  bool error = false;
  said.str({});
  for (std::uint64_t block = 0; block < blocks; ++block) {
    if (!(*channel)->read(block * block_bytes, read)) {
      error = true;
    } else if (std::memcmp(read.data(), &subject.content[block * block_bytes], block_bytes) != 0) {
      std::printf("seed %llu, %s: block %llu shows other bytes\n",
                  static_cast<unsigned long long>(seed), what.c_str(),
                  static_cast<unsigned long long>(block));
      ++count.wrong;
      return;
    }
  }
  ++(error ? count.errors : count.unharmed);
  if (!error) return;
  std::string words = "layer '" + name_of(layer) + "'";
  if (one_place && at >= (*chain)->layer(static_cast<std::uint32_t>(layer)).data_offset(0))
    words += ", offset " + std::to_string(at) + ": block ";
  expect_words(seed, what, said.str(), words, count);
}

int run(int argc, char** argv) {
  std::uint64_t flips = 1000, seed = 1;
  bool verify = true, expect_red = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    if (arg == "--no-verify") {
      verify = false;
    } else if (arg == "--expect-red") {
      expect_red = true;
    } else if (i + 1 < argc && arg == "--flips") {
      flips = std::strtoull(argv[++i], nullptr, 10);
    } else if (i + 1 < argc && arg == "--seed") {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else {
      std::fprintf(stderr, "chain-flips: what is '%s'?\n", argv[i]);
      return 2;
    }
  }
  log().sinks() = {std::make_shared<spdlog::sinks::ostream_sink_mt>(said)};
  const Subject subject = make_subject(seed);
  Count count;
  for (std::uint64_t i = 0; i < flips && count.wrong + count.unnamed < 5; ++i)
    judge(subject, seed + i, verify, count);
  std::printf("%llu damages from seed %llu: %llu not opened, %llu read errors, %llu without harm, "
              "%llu with wrong bytes, %llu without a name\n",
              static_cast<unsigned long long>(flips), static_cast<unsigned long long>(seed),
              static_cast<unsigned long long>(count.refused),
              static_cast<unsigned long long>(count.errors),
              static_cast<unsigned long long>(count.unharmed),
              static_cast<unsigned long long>(count.wrong),
              static_cast<unsigned long long>(count.unnamed));
  return count.unnamed == 0 && (count.wrong > 0) == expect_red ? 0 : 1;
}

}  // namespace

}  // namespace tidepool::test

int main(int argc, char** argv) { return tidepool::test::run(argc, argv); }
