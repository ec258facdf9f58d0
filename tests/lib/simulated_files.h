// A directory of SimulatedStores with one power supply: files, their names and the
// directory lose their power together.
//
// Names are stable once sync_directory() was called; a crash before keeps any of the
// changes since, each as a whole. All paths are in one directory. Locks are not
// simulated. One thread at a time, but for the stores.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "blockdev/chain/file_system.h"
#include "tests/lib/simulated_store.h"

namespace tidepool::test {

class SimulatedFiles : public blockdev::chain::FileSystem {
 public:
  // The disk after a power loss: a file may have several names.
  struct Remains {
    std::vector<SparseImage> files;
    std::map<std::string, std::size_t> names;
  };

  SimulatedFiles() = default;
  explicit SimulatedFiles(const Remains& remains);

  PowerSupply& power() { return *power_; }
  // What a power loss now (or that was) leaves.
  Remains crash(std::uint64_t seed) const;
  bool skip_directory_sync = false;  // for a test that must go red

  Result<std::shared_ptr<blockdev::BlockStore>> open(const Path& path, bool read_only) override;
  Result<std::shared_ptr<blockdev::BlockStore>> create(const Path& path,
                                                       std::uint64_t bytes) override;
  Result<std::shared_ptr<blockdev::BlockStore>> open_for_change(blockdev::BlockStore& held) override;
  Result<> share(blockdev::BlockStore&) override { return {}; }
  Result<std::size_t> read_start(const Path& path, std::span<std::byte> data) override;
  Result<> set_size(blockdev::BlockStore&, std::uint64_t) override { return {}; }
  bool exists(const Path& path) override { return names_.contains(path.native()); }
  Result<> link(const Path& path, const Path& name) override;
  bool same(const Path& one, const Path& other) override;
  void leave_link(const Path&, const Path&, const std::string&) override {}
  Result<> rename(const Path& from, const Path& to) override;
  Result<> remove(const Path& path) override;
  Result<> sync_directory(const Path& file) override;
  Result<std::vector<Path>> beside(const Path& file) override;
  Result<std::int64_t> change_time(const Path&) override { return 0; }

 private:
  using Stores = std::map<std::string, std::shared_ptr<SimulatedStore>>;
  struct NameChange {
    std::string gone, name;  // either may be empty
    std::shared_ptr<SimulatedStore> store;
  };
  Result<> change(NameChange change);
  static void apply(Stores& names, const NameChange& change);
  std::shared_ptr<SimulatedStore> find(const Path& path) const;

  std::shared_ptr<PowerSupply> power_ = std::make_shared<PowerSupply>();
  Stores names_, durable_;
  std::vector<NameChange> unsynced_;
};

}  // namespace tidepool::test
