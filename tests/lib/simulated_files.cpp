#include "tests/lib/simulated_files.h"

#include <cerrno>
#include <random>
#include <utility>

namespace tidepool::test {

using namespace blockdev;

SimulatedFiles::SimulatedFiles(const Remains& remains) {
  std::vector<std::shared_ptr<SimulatedStore>> stores(remains.files.size());
  for (const auto& [name, number] : remains.names) {
    auto& store = stores[number];
    if (!store) {
      store = SimulatedStore::open(remains.files[number], {.name = name, .power = power_});
    }
    names_[name] = store;
  }
  durable_ = names_;
}

std::shared_ptr<SimulatedStore> SimulatedFiles::find(const Path& path) const {
  const auto found = names_.find(path.native());
  return found == names_.end() ? nullptr : found->second;
}

void SimulatedFiles::apply(Stores& names, const NameChange& change) {
  if (!change.gone.empty()) names.erase(change.gone);
  if (!change.name.empty()) names[change.name] = change.store;
}

Result<> SimulatedFiles::change(NameChange change) {
  if (power_->off()) return fail_errno(EIO, "the power is off");
  power_->changes.fetch_add(1);
  apply(names_, change);
  unsynced_.push_back(std::move(change));
  return {};
}

Result<std::shared_ptr<BlockStore>> SimulatedFiles::open(const Path& path, bool) {
  auto store = find(path);
  if (!store) return fail_errno(ENOENT, fmt::format("cannot open '{}'", path.native()));
  return store;
}

Result<std::shared_ptr<BlockStore>> SimulatedFiles::create(const Path& path, std::uint64_t bytes) {
  if (exists(path)) return fail_errno(EEXIST, fmt::format("cannot create '{}'", path.native()));
  auto store =
      SimulatedStore::open(SparseImage(bytes), {.name = path.native(), .power = power_});
  if (auto r = change({"", path.native(), store}); !r) return std::unexpected(r.error());
  return store;
}

Result<std::shared_ptr<BlockStore>> SimulatedFiles::open_for_change(BlockStore& held) {
  return static_cast<SimulatedStore&>(held).shared_from_this();
}

Result<std::size_t> SimulatedFiles::read_start(const Path& path, std::span<std::byte> data) {
  const auto store = find(path);
  if (!store) return fail_errno(ENOENT, fmt::format("cannot open '{}'", path.native()));
  if (power_->off()) return fail_errno(EIO, "the power is off");
  store->newest().read(0, data);
  return data.size();
}

Result<> SimulatedFiles::link(const Path& path, const Path& name) {
  const auto store = find(path);
  if (!store) return fail_errno(ENOENT, fmt::format("no '{}'", path.native()));
  if (const auto there = find(name); there && there != store)
    return fail_errno(EEXIST, fmt::format("'{}' exists", name.native()));
  return change({"", name.native(), store});
}

bool SimulatedFiles::same(const Path& one, const Path& other) {
  return find(one) != nullptr && find(one) == find(other);
}

Result<> SimulatedFiles::rename(const Path& from, const Path& to) {
  const auto store = find(from);
  if (!store) return fail_errno(ENOENT, fmt::format("no '{}'", from.native()));
  return change({from.native(), to.native(), store});
}

Result<> SimulatedFiles::remove(const Path& path) {
  if (!find(path)) return {};
  return change({path.native(), "", nullptr});
}

Result<> SimulatedFiles::sync_directory(const Path&) {
  if (power_->off()) return fail_errno(EIO, "the power is off");
  power_->changes.fetch_add(1);
  if (skip_directory_sync) return {};
  durable_ = names_;
  unsynced_.clear();
  return {};
}

Result<std::vector<blockdev::chain::FileSystem::Path>> SimulatedFiles::beside(const Path&) {
  std::vector<Path> found;
  for (const auto& [name, store] : names_) found.emplace_back(name);
  return found;
}

SimulatedFiles::Remains SimulatedFiles::crash(std::uint64_t seed) const {
  std::mt19937_64 random(seed);
  Stores names = durable_;
  const auto fate = random() % 4;  // none, all, or some of the changes
  for (const NameChange& change : unsynced_)
    if (fate == 1 || (fate > 1 && random() % 2 == 0)) apply(names, change);
  std::map<const SimulatedStore*, std::size_t> numbers;
  Remains remains;
  for (const auto& [name, store] : names) {
    const auto [number, fresh] = numbers.try_emplace(store.get(), remains.files.size());
    if (fresh) remains.files.push_back(store->crash(random()));
    remains.names.emplace(name, number->second);
  }
  return remains;
}

}  // namespace tidepool::test
