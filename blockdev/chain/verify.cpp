#include "blockdev/chain/verify.h"

#include "blockdev/chain/layer_reader.h"

namespace tidepool::blockdev::chain {

Result<> verify_chain(Chain& chain, Progress& progress,
                      const std::function<void(const Error&)>& sink) {
  const auto order = chain.order();
  std::uint64_t total = 0;
  {
    const std::lock_guard lock(chain.lock());
    for (std::uint32_t number : order) total += chain.layer(number).map().slots_used();
  }
  progress.total.store(total * block_bytes);
  for (std::uint32_t number : order) {
    auto reader = LayerReader::open(chain, chain.layer(number));
    if (!reader) return std::unexpected(reader.error());
    auto done = (*reader)->for_pieces([&](const LayerReader::Piece& piece) -> Result<> {
      if (piece.zero) return {};
      if (auto r = progress.go_on(); !r) return r;
      if (auto r = (*reader)->read_unchecked(piece); !r) return r;
      for (std::uint64_t bad : (*reader)->damaged()) sink((*reader)->damage(piece, bad));
      progress.done.fetch_add(piece.count * block_bytes);
      return {};
    });
    if (!done) return done;
  }
  return {};
}

}  // namespace tidepool::blockdev::chain
