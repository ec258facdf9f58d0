// deep_chain DIRECTORY: a chain of many layers whose blocks do not adjoin, so that each
// is an extent of its own, and how long it takes to open. Prints JSON figures. A chain that
// is there from an earlier run is opened as it is.
//
// Only the maps are written, not the blocks: such a chain can be opened, not read.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file_limit.h"
#include "blockdev/chain/chain_files.h"
#include "tests/lib/judge.h"

namespace {

using namespace tidepool;
using namespace blockdev::chain;
namespace fs = std::filesystem;

template <class T>
T must(Result<T> result) {
  if (!result) judge::die("%s", result.error().message.c_str());
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

// The layer's blocks, in any order, to its first slots.
void map_blocks(LayerFile& layer, std::span<const std::uint64_t> blocks) {
  std::vector<SlotRun> runs;
  if (!layer.map().take(blocks.size(), runs)) judge::die("a layer has too few slots");
  const std::uint64_t hash = 0;
  for (std::size_t i = 0; i < blocks.size(); ++i)
    layer.map().map(blocks[i], {runs.front().slot + i, 1}, &hash);
}

fs::path path_of(const fs::path& directory, std::uint64_t layer) {
  return directory / fmt::format("layer.{}", layer);
}

// Every layer has the same number of blocks, anywhere on the disk.
void make_chain(const fs::path& directory, std::uint64_t size, std::uint64_t layers,
                std::uint64_t extents, judge::Random& random) {
  const std::uint64_t spacing = size / block_bytes / extents;
  if (spacing < 2) judge::die("the disk is too small for so many extents");
  std::vector<std::uint64_t> blocks(extents / layers * layers);
  for (std::size_t i = 0; i < blocks.size(); ++i) blocks[i] = i * spacing;
  for (std::size_t i = blocks.size(); i > 1; --i) std::swap(blocks[i - 1], blocks[random.below(i)]);
  const std::uint64_t each = blocks.size() / layers;
  ParentReference parent;
  for (std::uint64_t i = 0; i < layers; ++i) {
    const fs::path path = path_of(directory, i);
    LayerHeader header = must(lay_out_layer(size));
    header.parent = parent;
    auto layer = must(write_layer(local_files(), path, std::move(header)));
    map_blocks(*layer, std::span(blocks).subspan(i * each, each));
    std::mutex lock;
    if (i + 1 == layers) {
      must(layer->close(lock));
    } else {
      must(layer->seal(lock, fmt::format("c{}", i)));
    }
    parent = {.kind = ParentKind::layer,
              .location = path.filename(),
              .uuid = layer->header().uuid,
              .content = layer->header().content,
              .size = size};
  }
}

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  const judge::Options options(
      argc, argv, {"layers", "extents", "size", "opens", "seed"}, {},
      "usage: deep_chain DIRECTORY [--layers N] [--extents N] [--size S] [--opens N] [--seed S]");
  if (options.words.size() != 1) options.usage_error("an empty directory");
  raise_file_limit();
  judge::Random random(options.number("seed", 1));
  const std::uint64_t layers = options.number("layers", 1000);
  const fs::path top = path_of(options.words[0], layers - 1);
  if (!fs::exists(top)) {
    make_chain(options.words[0], options.number("size", 100ULL << 30), layers,
               options.number("extents", 1000000), random);
  }
  std::vector<double> times, processor;
  nlohmann::json line;
  for (std::uint64_t i = options.number("opens", 9); i > 0; --i) {
    std::shared_ptr<Chain> chain;
    const auto start = std::chrono::steady_clock::now();
    const std::clock_t used = std::clock();
    chain = must(open_chain(local_files(), top, {}));
    times.push_back(milliseconds_since(start));
    processor.push_back(static_cast<double>(std::clock() - used) * 1000 / CLOCKS_PER_SEC);
    std::uint64_t own = 0;
    for (const std::uint32_t number : chain->order())
      own += chain->layer(number).map().memory_bytes();
    line = {{"layers", chain->order().size()},
            {"extents", chain->index().extents()},
            {"index_memory_bytes", chain->index().memory_bytes()},
            {"layer_memory_bytes", own}};
  }
  line["open_ms"] = median(times);
  line["fastest_open_ms"] = *std::min_element(times.begin(), times.end());
  line["processor_ms"] = median(processor);  // says more where others work, too
  fmt::print("{}\n", line.dump());
}
