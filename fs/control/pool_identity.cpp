#include "fs/control/pool_identity.h"

#include "blockdev/sync_channel.h"
#include "fs/pool/superblock.h"

namespace tidepool::control {

Result<PoolIdentity> identify_pool(blockdev::BlockStore& store) {
  PoolIdentity identity;
  blockdev::AlignedBuffer slots(2 * pool::Superblock::slot_stride);
  if (store.geometry().size < slots.size()) return identity;
  auto channel = blockdev::SyncChannel::open(store);
  if (!channel) return std::unexpected(channel.error());
  if (auto read = (*channel)->read(0, slots.span()); !read) return std::unexpected(read.error());
  for (const std::size_t slot : {0, 1}) {
    const auto bytes =
        slots.span().subspan(slot * pool::Superblock::slot_stride, pool::Superblock::encoded_size);
    pool::Superblock superblock;
    const auto state = pool::decode(bytes, superblock);
    if (state != pool::SlotState::absent) identity.has_superblock = true;
    if (state == pool::SlotState::valid) identity.uuid = to_text(superblock.uuid);
  }
  return identity;
}

}  // namespace tidepool::control
