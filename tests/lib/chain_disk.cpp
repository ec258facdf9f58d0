#include "tests/lib/chain_disk.h"

namespace tidepool::test {

using namespace blockdev::chain;

Result<> ChainDisk::add_layer(std::uint64_t size) {
  auto header = lay_out_layer(size);
  if (!header) return std::unexpected(header.error());
  auto store = SimulatedStore::open(header->file_bytes());
  auto created = LayerFile::create(store, *header);
  if (!created) return std::unexpected(created.error());
  stores.push_back(std::move(store));
  return {};
}

Result<std::shared_ptr<Chain>> ChainDisk::open(const ChainOptions& options,
                                               const Sabotage& sabotage,
                                               bool reuse_at_once) const {
  std::vector<std::unique_ptr<LayerFile>> layers;
  for (const auto& store : stores) {
    auto layer = LayerFile::open(store);
    if (!layer) return std::unexpected(layer.error());
    layers.push_back(std::move(*layer));
    layers.back()->sabotage = sabotage;
    if (reuse_at_once) layers.back()->map().sabotage_reuse();
  }
  return Chain::assemble(base, std::move(layers), options);
}

}  // namespace tidepool::test
