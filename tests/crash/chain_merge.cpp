// Power loss while checkpoints are made, committed and deleted.
//
// Usage: chain-merge [--points N] [--seed S]
//                    [--sabotage data-barrier|journal-barrier|directory] [--expect-red]
//
// Each point runs a random mix of writes, flushes, checkpoints, commits and deletions on
// a chain until all its files lose their power at one random change; what is left
// is opened. The disk must show what the last flush covered or something written
// to it since; each checkpoint that is there exactly its content; each one that was
// there before and was not being changed must still be there. Then the command that was cut
// short is given again, and everything is checked once more, every block's hash too.
//
// --sabotage takes one protection away, --expect-red then asks for failures.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <string>

#include "base/log.h"
#include "blockdev/chain/chain_files.h"
#include "blockdev/chain/checkpoint.h"
#include "blockdev/chain/merge.h"
#include "blockdev/chain/verify.h"
#include "tests/crash/crash_arguments.h"
#include "tests/lib/simulated_files.h"

namespace tidepool::test {

using namespace blockdev;
using namespace blockdev::chain;

namespace {

constexpr std::uint64_t blocks = 64, disk_size = blocks * block_bytes;

using Content = std::array<std::uint64_t, blocks>;  // a version per block; 0: zeros

void fill(std::span<std::byte> block, std::uint64_t number, std::uint64_t version) {
  std::mt19937_64 random(number << 32 | version);
  for (std::size_t i = 0; i < block.size(); i += 8) {
    const std::uint64_t word = version == 0 ? 0 : random();
    std::memcpy(&block[i], &word, sizeof word);
  }
}

// What a checkpoint may hold: one content; two while a commit goes into it.
using Contents = std::vector<Content>;

struct Point {
  std::uint64_t seed = 0;
  Sabotage sabotage;
  bool skip_directory_sync = false;
  std::string trouble;

  std::mt19937_64 random{seed};
  std::uint64_t version = 0, names = 0;
  Content now{};
  std::array<std::vector<std::uint64_t>, blocks> since;  // versions since the last flush
  std::map<std::string, Contents> checkpoints;
  std::set<std::string> uncertain;  // may be there or not
  enum class Cut { none, checkpoint, commit, deletion } cut = Cut::none;
  static constexpr std::size_t cuts = 4;
  std::array<std::uint64_t, cuts> points{};  // how often the power went meanwhile
  std::string cut_name;

  bool fails(const std::string& what) {
    trouble = what;
    return false;
  }
  Result<> write(SyncChannel& channel);
  void flushed();
  Result<> change_layers(FileSystem& files, Chain& chain);
  void live(SimulatedFiles& files);
  bool holds(Chain& chain, const Content& wanted, std::uint64_t& bad);
  bool check(FileSystem& files);
  bool run();
};

void Point::flushed() {
  for (std::uint64_t i = 0; i < blocks; ++i) since[i] = {now[i]};
}

Result<> Point::write(SyncChannel& channel) {
  const std::uint64_t block = random() % blocks;
  const std::uint64_t count = std::min<std::uint64_t>(1 + random() % 8, blocks - block);
  const bool clear = random() % 6 == 0;
  ++version;
  std::vector<std::byte> data(count * block_bytes);
  for (std::uint64_t i = 0; i < count; ++i) {
    now[block + i] = clear ? 0 : version;
    fill(std::span(data).subspan(i * block_bytes, block_bytes), block + i, now[block + i]);
    since[block + i].push_back(now[block + i]);
  }
  return clear ? channel.discard(block * block_bytes, data.size())
               : channel.write(block * block_bytes, data);
}

// The names of the chain's checkpoints, from the lowest up.
std::vector<std::string> names_of(Chain& chain) {
  std::vector<std::string> names;
  for (const std::uint32_t number : chain.order()) {
    const LayerHeader header = chain.layer(number).header_now();
    if (header.state == LayerState::sealed && !header.name.empty()) names.push_back(header.name);
  }
  return names;
}

Result<> Point::change_layers(FileSystem& files, Chain& chain) {
  Progress progress;
  const auto names_now = names_of(chain);
  const auto choice = random() % 3;
  if (choice == 0 || names_now.empty()) {
    const std::string name = "c" + std::to_string(names++);
    checkpoints[name] = {now};
    uncertain.insert(name);
    cut = Cut::checkpoint;
    auto done = take_checkpoint(files, chain, "top", name, "top." + name);
    if (done) {
      cut = Cut::none;
      uncertain.erase(name);
      flushed();
    }
    return done ? Result<>{} : std::unexpected(done.error());
  }
  if (choice == 1) {
    cut = Cut::commit;
    cut_name = names_now.back();
    checkpoints[cut_name].push_back(now);
    auto done = commit_top(files, chain, "top", "", progress);
    if (done) {
      cut = Cut::none;
      checkpoints[cut_name] = {now};
      flushed();
    }
    return done;
  }
  cut = Cut::deletion;
  cut_name = names_now[random() % names_now.size()];
  uncertain.insert(cut_name);
  auto done = delete_checkpoint(files, chain, cut_name, progress);
  if (done) {
    cut = Cut::none;
    checkpoints.erase(cut_name);
    uncertain.erase(cut_name);
  }
  return done;
}

// Until the power goes.
void Point::live(SimulatedFiles& files) {
  for (int life = 0; life < 3 && !files.power().off(); ++life) {
    auto chain = open_chain(files, "top", {.most_freed = ~std::uint64_t{0}});
    if (!chain) return;
    const auto sabotaged = [&] {
      for (const std::uint32_t number : (*chain)->order())
        (*chain)->layer(number).sabotage = sabotage;
    };
    sabotaged();
    auto channel = SyncChannel::open(**chain);
    for (int i = 0; i < 150 && !files.power().off(); ++i) {
      const auto choice = random() % 12;
      if (choice == 0) {
        if ((*channel)->flush()) flushed();
      } else if (choice == 1) {
        if (!change_layers(files, **chain)) break;
        sabotaged();
        std::uint64_t bad = 0;
        if (!holds(**chain, now, bad) && !files.power().off()) {
          trouble = "block " + std::to_string(bad) + " is wrong after a change of the layers";
          return;
        }
      } else {
        (void)write(**channel);
      }
    }
  }
  if (files.power().off()) ++points[static_cast<std::size_t>(cut)];
}

bool Point::holds(Chain& chain, const Content& wanted, std::uint64_t& bad) {
  auto channel = SyncChannel::open(chain);
  std::vector<std::byte> read(block_bytes), expected(block_bytes);
  for (bad = 0; bad < blocks; ++bad) {
    if (!(*channel)->read(bad * block_bytes, read)) return false;
    fill(expected, bad, wanted[bad]);
    if (read != expected) return false;
  }
  return true;
}

bool Point::check(FileSystem& files) {
  auto chain = open_chain(files, "top", {});
  if (!chain) return fails("the chain does not open: " + chain.error().message);
  {
    auto channel = SyncChannel::open(**chain);
    std::vector<std::byte> read(block_bytes), expected(block_bytes);
    for (std::uint64_t block = 0; block < blocks; ++block) {
      if (auto r = (*channel)->read(block * block_bytes, read); !r) return fails(r.error().message);
      bool known = false;
      for (const std::uint64_t candidate : since[block]) {
        fill(expected, block, candidate);
        known = read == expected;
        if (!known) continue;
        now[block] = candidate;
        break;
      }
      if (!known) return fails("block " + std::to_string(block) + " lost what was flushed");
    }
    flushed();
  }
  Progress progress;
  std::uint64_t damaged = 0;
  auto verified = verify_chain(**chain, progress, [&](const Error&) { ++damaged; });
  if (!verified || damaged > 0) return fails("blocks fail their checksums");

  std::set<std::string> found;
  for (const std::uint32_t number : (*chain)->order()) {
    LayerFile& layer = (*chain)->layer(number);
    const LayerHeader header = layer.header_now();
    if (header.state != LayerState::sealed || header.name.empty()) continue;
    found.insert(header.name);
    const auto known = checkpoints.find(header.name);
    if (known == checkpoints.end()) return fails("'" + header.name + "' came back");
    if (header.merge == MergeState::takes_child) continue;  // no disk of its own just now
    auto alone = open_chain(files, layer.name(), {.read_only = true});
    if (!alone) return fails("'" + header.name + "' does not open: " + alone.error().message);
    bool right = false;
    std::uint64_t bad = 0;
    for (const Content& content : known->second) right = right || holds(**alone, content, bad);
    if (!right)
      return fails("'" + header.name + "' does not hold what it held, at block " +
                   std::to_string(bad));
  }
  for (const auto& [name, content] : checkpoints) {
    if (!found.contains(name) && !uncertain.contains(name)) return fails("'" + name + "' is lost");
  }
  for (auto at = checkpoints.begin(); at != checkpoints.end();)
    at = found.contains(at->first) ? std::next(at) : checkpoints.erase(at);
  uncertain.clear();
  return true;
}

bool Point::run() {
  SimulatedFiles files;
  flushed();
  for (std::uint64_t i = 0; i < blocks; ++i) since[i] = {0};
  if (!create_layer(files, {.path = "top", .size = disk_size})) return fails("no layer");
  files.power().off_after = files.power().changes.load() + 1 + random() % 1200;
  files.skip_directory_sync = skip_directory_sync;
  live(files);
  if (!trouble.empty()) return false;
  SimulatedFiles after(files.crash(seed));
  if (!check(after)) return false;
  // Given again, what was cut short comes to its end.
  Progress progress;
  if (cut == Cut::commit) {
    auto chain = open_chain(after, "top", {});
    if (!chain) return fails(chain.error().message);
    if (auto r = commit_top(after, **chain, "top", "", progress); !r)
      return fails("commit, again: " + r.error().message);
    if (checkpoints.contains(cut_name)) checkpoints[cut_name] = {now};
  } else if (cut == Cut::deletion) {
    auto chain = open_chain(after, "top", {});
    if (!chain) return fails(chain.error().message);
    auto r = delete_checkpoint(after, **chain, cut_name, progress);
    if (!r && r.error().kind != ErrorKind::not_found)
      return fails("deletion, again: " + r.error().message);
    checkpoints.erase(cut_name);
  }
  if (!check(after)) return fails("second life: " + trouble);
  after.power().off_after = after.power().changes.load() + 1 + random() % 400;
  cut = Cut::none;
  live(after);
  if (!trouble.empty()) return false;
  SimulatedFiles last(after.crash(seed));
  if (!check(last)) return fails("third life: " + trouble);
  return true;
}

int run(int argc, char** argv) {
  const auto arguments = CrashArguments::parse(argc, argv, "directory");
  if (!arguments) return 2;
  const auto& [points, seed, sabotage, expect_red, skip_directory_sync] = *arguments;
  log().set_level(spdlog::level::off);  // that the power went is known here
  std::uint64_t failed = 0, tried = 0;
  std::array<std::uint64_t, Point::cuts> cut{};
  for (; tried < points && failed < (expect_red ? 1 : 5); ++tried) {
    Point point{seed + tried, sabotage, skip_directory_sync, {}};
    const bool good = point.run();
    for (std::size_t i = 0; i < cut.size(); ++i) cut[i] += point.points[i];
    if (good) continue;
    ++failed;
    std::printf("seed %llu: %s\n", static_cast<unsigned long long>(seed + tried),
                point.trouble.c_str());
  }
  const auto count = [&](Point::Cut what) {
    return static_cast<unsigned long long>(cut[static_cast<std::size_t>(what)]);
  };
  std::printf(
      "%llu crash points from seed %llu (%llu while writing, %llu in a checkpoint, %llu in a "
      "commit, %llu in a deletion), %llu failed\n",
      count(Point::Cut::none) + count(Point::Cut::checkpoint) + count(Point::Cut::commit) +
          count(Point::Cut::deletion),
      static_cast<unsigned long long>(seed), count(Point::Cut::none), count(Point::Cut::checkpoint),
      count(Point::Cut::commit), count(Point::Cut::deletion),
      static_cast<unsigned long long>(failed));
  if (!expect_red && points >= 500 && std::ranges::min(cut) == 0) {
    std::printf("FAILED: one of them was never cut short\n");
    return 1;
  }
  return (failed > 0) == expect_red ? 0 : 1;
}

}  // namespace

}  // namespace tidepool::test

int main(int argc, char** argv) { return tidepool::test::run(argc, argv); }
