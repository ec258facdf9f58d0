// A chain of many layers against flat copies in memory.
//
// Usage: chain_model DIRECTORY [--ops N] [--layers N] [--size S] [--seed S] [--corrupt-at N]
//
// Random writes, discards, zeroes, reads and flushes of any grain go to a chain on a raw
// file, in real files in DIRECTORY, and to a flat copy; in between come checkpoints,
// deletions (while writes go on), commits, and new lives. The disk is small, so that
// nearly every layer holds a part of what shows. Of each checkpoint a flat copy is
// kept, and again and again each is opened by itself and compared as a whole.
//
// --corrupt-at flips one bit in the flat copy of a checkpoint: the test must go red.
#include <algorithm>
#include <array>
#include <filesystem>
#include <future>
#include <span>

#include "base/file_limit.h"
#include "blockdev/chain/chain_files.h"
#include "blockdev/chain/checkpoint.h"
#include "blockdev/chain/merge.h"
#include "blockdev/chain/verify.h"
#include "blockdev/sync_channel.h"
#include "tests/lib/judge.h"

namespace {

using namespace tidepool;
using namespace blockdev;
using namespace blockdev::chain;
namespace fs = std::filesystem;

using Bytes = std::vector<std::byte>;

constexpr std::uint64_t ops_per_change = 150;    // of the layers, about
constexpr std::uint64_t ops_per_life = 6'000;    // of an open chain, about
constexpr std::uint64_t ops_per_check = 15'000;  // of all checkpoints

template <class T>
T must(Result<T> result, const char* what) {
  if (!result) judge::die("%s: %s", what, result.error().message.c_str());
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

struct Checkpoint {
  std::string name;
  Bytes content;
};

struct Tally {
  std::uint64_t checkpoints = 0, deletions = 0, commits = 0, lives = 0, compared = 0;
  std::size_t deepest = 0;  // layers
};

class Model {
 public:
  Model(fs::path directory, std::uint64_t size, std::size_t layers, std::uint64_t seed)
      : random_(seed), top_(directory / "disk.layer"), most_layers_(layers), flat_(size) {
    const fs::path base = directory / "base.raw";
    const auto part = std::span(flat_).first(size / 2 / 512 * 512);
    fill(random_, part);
    {
      auto store = must(local_files().create(base, part.size()), "base");
      must(must(SyncChannel::open(*store), "base")->write(0, part), "base");
    }
    must(create_layer(local_files(),
                      {.path = top_, .size = size, .kind = ParentKind::file, .parent = base}),
         "create");
    open();
  }

  void run(std::uint64_t ops, std::uint64_t corrupt_at) {
    // Longer, where chance kept the chain from growing to its depth.
    const auto goes_on = [&](std::uint64_t op) {
      return op <= ops || (tally_.deepest < most_layers_ && op <= 8 * ops);
    };
    for (std::uint64_t op = 1; goes_on(op); ++op) {
      step(random_);
      if (random_.chance(ops_per_change)) change_layers();
      if (random_.chance(ops_per_life)) open();
      if (op == corrupt_at && !checkpoints_.empty())
        checkpoints_.front().content[flat_.size() / 3] ^= std::byte{1};
      if (op % ops_per_check == 0) compare_all();
    }
    compare_all();
    close();
    auto chain = must(open_chain(local_files(), top_, {.read_only = true}), "open");
    Progress progress;
    must(verify_chain(*chain, progress,
                      [](const Error& error) { judge::die("%s", error.message.c_str()); }),
         "verify");
  }

  const Tally& tally() const { return tally_; }

 private:
  static void fill(judge::Random& random, std::span<std::byte> data) {
    judge::fill_random(random, reinterpret_cast<unsigned char*>(data.data()), data.size());
  }

  std::size_t layers() const { return checkpoints_.size() + 1; }
  fs::path path_of(const Checkpoint& checkpoint) const {
    return top_.native() + "." + checkpoint.name;
  }

  void close() {
    channel_.reset();
    chain_.reset();
  }
  void open() {
    close();
    chain_ = must(open_chain(local_files(), top_, {}), "open");
    channel_ = must(SyncChannel::open(*chain_), "channel");
    ++tally_.lives;
  }

  // One request; offset and length of all kinds.
  void step(judge::Random& random) {
    const std::uint64_t size = flat_.size();
    const std::uint64_t grain = std::array{1u, 512u, 4096u, 4096u}[random.below(4)];
    const std::uint64_t offset = random.below(size / grain) * grain;
    const std::uint64_t length =
        std::min(random.size_up_to(random.chance(8) ? 65'536 : 12'288), size - offset);
    const auto range = std::span(flat_).subspan(offset, length);
    switch (random.below(16)) {
      case 0:
      case 1:
        must(channel_->discard(offset, length), "discard");
        std::ranges::fill(range, std::byte{0});
        return;
      case 2:
        must(channel_->zero(offset, length), "zero");
        std::ranges::fill(range, std::byte{0});
        return;
      case 3:  // zeros that are written
        std::ranges::fill(range, std::byte{0});
        return must(channel_->write(offset, range), "write");
      case 4:
      case 5:
        read_.resize(length);
        must(channel_->read(offset, read_), "read");
        return expect(read_, range, offset, "the disk");
      default:
        if (random.chance(64)) return must(channel_->flush(), "flush");
        fill(random, range);
        return must(channel_->write(offset, range), "write");
    }
  }

  void change_layers() {
    const bool full = layers() >= most_layers_;
    full_once_ = full_once_ || full;
    const auto choice = random_.below(full_once_ ? 10 : 40);
    if (checkpoints_.empty() || (choice >= 4 && !full)) {
      take_checkpoint();
    } else if (choice % 2 == 0) {
      remove();
    } else {
      commit();
    }
    tally_.deepest = std::max(tally_.deepest, layers());
    compare_disk();
    if (!checkpoints_.empty()) compare(checkpoints_[random_.below(checkpoints_.size())]);
  }

  void take_checkpoint() {
    Checkpoint taken{"c" + std::to_string(tally_.checkpoints++), flat_};
    must(chain::take_checkpoint(local_files(), *chain_, top_, taken.name, path_of(taken)),
         "checkpoint");
    checkpoints_.push_back(std::move(taken));
  }

  void remove() {
    const std::size_t place = random_.below(checkpoints_.size());
    const std::string name = checkpoints_[place].name;
    auto removal = std::async(std::launch::async, [&] {
      Progress progress;
      return delete_checkpoint(local_files(), *chain_, name, progress);
    });
    // How many come meanwhile is not known; all else is the same for one seed.
    judge::Random meanwhile(random_.next());
    do {
      step(meanwhile);
    } while (removal.wait_for(std::chrono::seconds(0)) != std::future_status::ready);
    must(removal.get(), "delete");
    checkpoints_.erase(checkpoints_.begin() + static_cast<std::ptrdiff_t>(place));
    ++tally_.deletions;
  }

  void commit() {
    Progress progress;
    must(commit_top(local_files(), *chain_, top_, {}, progress), "commit");
    checkpoints_.back().content = flat_;
    ++tally_.commits;
  }

  static void expect(std::span<const std::byte> found, std::span<const std::byte> wanted,
                     std::uint64_t offset, const char* where) {
    const auto at = std::ranges::mismatch(found, wanted).in1;
    if (at == found.end()) return;
    judge::die("%s: byte %llu is not what was written", where,
               static_cast<unsigned long long>(offset + (at - found.begin())));
  }

  void compare_disk() {
    read_.resize(flat_.size());
    must(channel_->read(0, read_), "read");
    expect(read_, flat_, 0, "the disk");
  }

  void compare(const Checkpoint& checkpoint) {
    auto chain = must(open_chain(local_files(), path_of(checkpoint), {.read_only = true}),
                      checkpoint.name.c_str());
    auto channel = must(SyncChannel::open(*chain), checkpoint.name.c_str());
    read_.resize(flat_.size());
    must(channel->read(0, read_), checkpoint.name.c_str());
    expect(read_, checkpoint.content, 0, checkpoint.name.c_str());
    ++tally_.compared;
  }

  void compare_all() {
    compare_disk();
    for (const Checkpoint& checkpoint : checkpoints_) compare(checkpoint);
  }

  judge::Random random_;
  const fs::path top_;
  const std::size_t most_layers_;
  Bytes flat_, read_;
  std::vector<Checkpoint> checkpoints_;  // from the lowest up
  std::shared_ptr<Chain> chain_;
  std::unique_ptr<SyncChannel> channel_;
  bool full_once_ = false;
  Tally tally_;
};

}  // namespace

int main(int argc, char** argv) {
  const judge::Options options(
      argc, argv, {"ops", "layers", "size", "seed", "corrupt-at"}, {},
      "usage: chain_model DIRECTORY [--ops N] [--layers N] [--size S] [--seed S] [--corrupt-at N]");
  if (options.words.size() != 1) options.usage_error("which directory?");
  const std::uint64_t seed = judge::seed_of(options);
  raise_file_limit();
  const fs::path directory = options.words[0];
  fs::remove_all(directory);
  fs::create_directories(directory);
  const std::size_t layers = options.number("layers", 64);
  const std::uint64_t ops = options.number("ops", 20'000);
  Tally tally;
  {
    // The last block is cut.
    Model model(directory, options.number("size", 2 << 20) - 1536, layers, seed);
    model.run(ops, options.number("corrupt-at", 0));
    tally = model.tally();
  }
  fs::remove_all(directory);
  std::printf(
      "%llu operations, %llu checkpoints, %llu deletions, %llu commits, %llu lives, "
      "%zu layers at most: %llu checkpoints compared, all as their flat copies\n",
      static_cast<unsigned long long>(ops), static_cast<unsigned long long>(tally.checkpoints),
      static_cast<unsigned long long>(tally.deletions),
      static_cast<unsigned long long>(tally.commits), static_cast<unsigned long long>(tally.lives),
      tally.deepest, static_cast<unsigned long long>(tally.compared));
  if (tally.deepest < layers) judge::die("the chain never had %zu layers: give more --ops", layers);
}
