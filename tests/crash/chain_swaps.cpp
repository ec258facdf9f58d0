// Layers that are not those the chain was made of: an error that names a file, or the
// right bytes, never others.
//
// Usage: chain-swaps [--rounds N] [--seed S] [--forge --expect-red]
//
// A chain lives through writes, checkpoints, deletions and commits, the last of which may
// have been cut short; after each step every file is kept as it was then. Beside it
// lives another chain with the same names. Then files of the chain are replaced: by
// an older copy, by each other, by the other chain's, by one that is cut off, by none,
// or all but one by those of an earlier day. The disk must show what it held. One
// thing nothing can tell: a top that is older itself, upon layers that are as they were,
// is the whole disk of that day.
//
// --forge takes the protection away: each layer is made to expect the parent that it finds;
// --expect-red then asks for wrong bytes.
#include <spdlog/sinks/ostream_sink.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <set>
#include <span>
#include <sstream>
#include <string>
#include <string_view>

#include "base/log.h"
#include "blockdev/chain/chain_files.h"
#include "blockdev/chain/checkpoint.h"
#include "blockdev/chain/merge.h"
#include "tests/lib/simulated_files.h"

namespace tidepool::test {

using namespace blockdev;
using namespace blockdev::chain;

namespace {

constexpr std::uint64_t blocks = 48, disk_size = blocks * block_bytes;
constexpr int steps = 14;

using Bytes = std::vector<std::byte>;
using Files = std::map<std::string, SparseImage>;

struct Moment {
  Files files;
  Bytes content;
};

[[noreturn]] void die(const std::string& text) {
  std::printf("FAILED: %s\n", text.c_str());
  std::exit(1);
}

template <class T>
T must(Result<T> result) {
  if (!result) die(result.error().message);
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

SimulatedFiles::Remains as_remains(const Files& files) {
  SimulatedFiles::Remains remains;
  for (const auto& [name, image] : files) {
    remains.names.emplace(name, remains.files.size());
    remains.files.push_back(image);
  }
  return remains;
}

// A chain's life, step by step; the last moment is what is there in the end.
class History {
 public:
  explicit History(std::uint64_t seed) : random_(seed), content_(disk_size) {
    must(create_layer(*files_, {.path = "top", .size = disk_size}));
    for (int step = 0; step < steps; ++step) {
      live();
      keep(files_->crash(0));
    }
    live();
    cut_short();
  }
  const std::vector<Moment>& moments() const { return moments_; }

 private:
  void live() {
    auto chain = must(open_chain(*files_, "top", {}));
    auto channel = must(SyncChannel::open(*chain));
    for (int i = 0; i < 12; ++i) {
      const std::uint64_t block = random_() % blocks;
      const std::uint64_t count = std::min<std::uint64_t>(1 + random_() % 6, blocks - block);
      const auto range = std::span(content_).subspan(block * block_bytes, count * block_bytes);
      const bool clear = random_() % 6 == 0;
      for (auto& byte : range) byte = clear ? std::byte{0} : static_cast<std::byte>(random_());
      must(clear ? channel->discard(block * block_bytes, range.size())
                 : channel->write(block * block_bytes, range));
    }
    channel.reset();
    change_layers(*chain);
  }

  void change_layers(Chain& chain) {
    Progress progress;
    const auto choice = random_() % 6;
    if (choice < 3 || names_.size() < 2) {
      const std::string name = "c" + std::to_string(next_name_++);
      must(take_checkpoint(*files_, chain, "top", name, "top." + name));
      names_.push_back(name);
    } else if (choice == 3) {
      must(commit_top(*files_, chain, "top", "", progress));
    } else if (choice == 4) {
      const auto gone = names_.begin() + static_cast<std::ptrdiff_t>(random_() % names_.size());
      must(delete_checkpoint(*files_, chain, *gone, progress));
      names_.erase(gone);
    }
  }

  // A commit or deletion may be left half done; the content is the same.
  void cut_short() {
    keep(files_->crash(0));
    Progress progress;
    files_ = std::make_unique<SimulatedFiles>(as_remains(moments_.back().files));
    {
      auto chain = must(open_chain(*files_, "top", {}));
      files_->power().off_after = files_->power().changes.load() + 1 + random_() % 40;
      if (random_() % 2 == 0) {
        (void)commit_top(*files_, *chain, "top", "", progress);
      } else {
        (void)delete_checkpoint(*files_, *chain, names_[random_() % names_.size()], progress);
      }
    }
    const std::uint64_t how = random_();
    // What a power loss made of the names must be a chain of its own right.
    SimulatedFiles after(files_->crash(how));
    must(open_chain(after, "top", {}));
    keep(after.crash(0));
  }

  void keep(const SimulatedFiles::Remains& remains) {
    Moment& moment = moments_.emplace_back(Moment{{}, content_});
    for (const auto& [name, number] : remains.names)
      moment.files.emplace(name, remains.files[number]);
  }

  std::mt19937_64 random_;
  Bytes content_;
  std::unique_ptr<SimulatedFiles> files_ = std::make_unique<SimulatedFiles>();
  std::vector<std::string> names_;
  int next_name_ = 0;
  std::vector<Moment> moments_;
};

struct Swap {
  Files files;
  std::set<std::string> replaced;
  std::string what;
};

const SparseImage* find(const Files& files, const std::string& name) {
  const auto found = files.find(name);
  return found == files.end() ? nullptr : &found->second;
}

Swap swap_some(const History& history, const History& stranger, std::mt19937_64& random) {
  Swap swap{history.moments().back().files, {}, {}};
  const auto any = [&](const auto& from) {
    return std::next(from.begin(), static_cast<std::ptrdiff_t>(random() % from.size()));
  };
  const auto put = [&](const std::string& name, const SparseImage* image) {
    swap.replaced.insert(name);
    swap.files.erase(name);
    if (image) swap.files.emplace(name, *image);
  };
  const std::string name = any(history.moments().back().files)->first;
  const Moment& earlier = *any(history.moments());
  switch (random() % 6) {
    case 0:
      swap.what = "an older '" + name + "'";
      if (const auto* image = find(earlier.files, name)) put(name, image);
      break;
    case 1: {
      const std::string other = any(swap.files)->first;
      const SparseImage one = *find(swap.files, name), two = *find(swap.files, other);
      swap.what = "'" + name + "' and '" + other + "' exchanged";
      put(name, &two);
      put(other, &one);
      break;
    }
    case 2:
      swap.what = "a stranger's '" + name + "'";
      if (const auto* image = find(any(stranger.moments())->files, name)) put(name, image);
      break;
    case 3: {
      SparseImage shorter = *find(swap.files, name);
      shorter.set_size(random() % (shorter.size() / 512) * 512);
      swap.what = "'" + name + "' cut off";
      put(name, &shorter);
      break;
    }
    case 4:
      swap.what = "no '" + name + "'";
      put(name, nullptr);
      break;
    default: {
      swap.what = "all but '" + name + "' of an earlier day";
      const SparseImage kept = *find(swap.files, name);
      std::set<std::string> all;
      for (const auto& [there, image] : swap.files) all.insert(there);
      for (const auto& [there, image] : earlier.files) all.insert(there);
      for (const std::string& there : all)
        if (there != name) put(there, find(earlier.files, there));
      swap.replaced.insert(name);  // it is the one that does not belong to the others
    }
  }
  return swap;
}

// Each layer from the top down expects the parent that is there.
void forge(Files& files) {
  std::set<std::string> seen;
  for (std::string name = "top"; files.contains(name) && seen.insert(name).second;) {
    SparseImage& image = files.at(name);
    Bytes slots(2 * LayerHeader::encoded_size);
    if (image.size() < slots.size()) return;
    image.read(0, slots);
    auto header = read_header(slots, name);
    if (!header || header->parent.kind != ParentKind::layer) return;
    const std::string parent = header->parent.location;
    const SparseImage* const below = find(files, parent);
    if (!below || below->size() < slots.size()) return;
    below->read(0, slots);
    const auto found = read_header(slots, parent);
    if (!found) return;
    header->parent.uuid = found->uuid;
    header->parent.content = found->content;
    ++header->generation;
    image.write(0, encode(*header));
    name = parent;
  }
}

struct Count {
  std::uint64_t refused = 0, errors = 0, right = 0, older = 0, wrong = 0;
};

class Judge {
 public:
  explicit Judge(bool forged) : forged_(forged) {
    log().sinks() = {std::make_shared<spdlog::sinks::ostream_sink_mt>(said_)};
  }

  void judge(std::uint64_t seed, const History& history, const History& stranger) {
    std::mt19937_64 random(seed);
    Swap swap = swap_some(history, stranger, random);
    if (forged_) forge(swap.files);
    said_.str({});
    SimulatedFiles files(as_remains(swap.files));
    auto chain = open_chain(files, "top", {.read_only = true});
    if (!chain) {
      ++count.refused;
      return expect_name(swap, chain.error().message, seed);
    }
    auto channel = must(SyncChannel::open(**chain));
    Bytes read(disk_size);
    if (!channel->read(0, read)) {
      ++count.errors;
      return expect_name(swap, said_.str(), seed);
    }
    if (read == history.moments().back().content) {
      ++count.right;
    } else if (swap.replaced.contains("top") && is_earlier(history, stranger, read)) {
      ++count.older;
    } else {
      wrong(seed, swap.what + ": other bytes");
    }
  }

  Count count;

 private:
  static bool is_earlier(const History& history, const History& stranger, const Bytes& read) {
    const auto holds = [&](const Moment& moment) { return moment.content == read; };
    return std::ranges::any_of(history.moments(), holds) ||
           std::ranges::any_of(stranger.moments(), holds);
  }
  void expect_name(const Swap& swap, const std::string& text, std::uint64_t seed) {
    const auto named = [&](const std::string& name) {
      return text.find("'" + name + "'") != std::string::npos;
    };
    if (!std::ranges::any_of(swap.replaced, named)) wrong(seed, swap.what + ", told as: " + text);
  }
  void wrong(std::uint64_t seed, const std::string& what) {
    ++count.wrong;
    std::printf("seed %llu, %s\n", static_cast<unsigned long long>(seed), what.c_str());
  }

  const bool forged_;
  std::ostringstream said_;
};

int run(int argc, char** argv) {
  std::uint64_t rounds = 2000, seed = 1;
  bool forged = false, expect_red = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    if (arg == "--forge") {
      forged = true;
    } else if (arg == "--expect-red") {
      expect_red = true;
    } else if (i + 1 < argc && arg == "--rounds") {
      rounds = std::strtoull(argv[++i], nullptr, 10);
    } else if (i + 1 < argc && arg == "--seed") {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else {
      std::fprintf(stderr, "chain-swaps: what is '%s'?\n", argv[i]);
      return 2;
    }
  }
  constexpr std::uint64_t per_history = 100;
  Judge judge(forged);
  for (std::uint64_t at = 0; at < rounds && judge.count.wrong < 5;) {
    const History history(seed + at), stranger(~(seed + at));
    for (const std::uint64_t end = std::min(rounds, at + per_history); at < end; ++at)
      judge.judge(seed + at, history, stranger);
  }
  const Count& count = judge.count;
  std::printf(
      "%llu swaps from seed %llu: %llu not opened, %llu read errors, %llu show the disk, "
      "%llu the whole disk of an earlier day, %llu wrong\n",
      static_cast<unsigned long long>(rounds), static_cast<unsigned long long>(seed),
      static_cast<unsigned long long>(count.refused), static_cast<unsigned long long>(count.errors),
      static_cast<unsigned long long>(count.right), static_cast<unsigned long long>(count.older),
      static_cast<unsigned long long>(count.wrong));
  return (count.wrong > 0) == expect_red ? 0 : 1;
}

}  // namespace

}  // namespace tidepool::test

int main(int argc, char** argv) { return tidepool::test::run(argc, argv); }
